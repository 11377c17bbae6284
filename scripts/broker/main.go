// The embedded Kafka broker of demos and tests: one process, on loopback, without Java or Docker.
//
// It is kfake, a fake Kafka of the client library franz-go, with its messages kept in a folder. It is not made for
// production: no replication, no authentication, messages are in the page cache when they are acknowledged. A killed
// process loses none of them; a power cut may. `millrace start broker` (millrace/broker.py) builds and runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
)

const probeTimeout = 4 * time.Second

func main() {
	port := flag.Int("port", 9092, "port on 127.0.0.1")
	data := flag.String("data", "", "folder of the messages")
	cluster := flag.String("cluster", "millrace-demo", "id that tells this broker from others")
	health := flag.String("health", "", "address that answers /live and /ready")
	flag.Parse()
	if err := run(*port, *data, *cluster, *health); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(port int, data, id, health string) error {
	stopped, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	lock, err := lockFolder(data)
	if err != nil {
		return err
	}
	defer lock.Close()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.Ports(port),
		kfake.ClusterID(id),
		kfake.DataDir(data),
		kfake.ListenFn(listen),
		kfake.MaxVersions(versions()),
		kfake.BrokerConfigs(map[string]string{"message.max.bytes": strconv.Itoa(32 << 20)}),
	)
	if err != nil {
		return explain(err, address, data)
	}
	defer cluster.Close()
	if err := serveHealth(health, address); err != nil {
		return err
	}
	say("The embedded broker, for demos and tests only, listens on %s. Its messages are in %s", address, data)
	<-stopped.Done()
	say("The embedded broker ends")
	return nil
}

// lockFolder makes this process the only broker of the folder: two would damage it.
func lockFolder(data string) (*os.File, error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("The broker's folder cannot be made: %w. Choose another MILLRACE_HOME", err)
	}
	lock, err := os.OpenFile(strings.TrimRight(data, "/")+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("The broker's folder cannot be locked: %w. Choose another MILLRACE_HOME", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("Another broker runs with the messages in %s. Use that one, or stop it first", data)
	}
	return lock, nil
}

func listen(network, address string) (net.Listener, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return net.Listen(network, net.JoinHostPort("127.0.0.1", port))
}

// versions leaves out DescribeTopicPartitions, which Java's clients prefer, and whose answer they cannot use here.
func versions() *kversion.Versions {
	newest := kversion.Stable()
	newest.SetMaxKeyVersion(75, -1)
	return newest
}

func explain(err error, address, data string) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is in use by another program. Stop it, or choose another port: MILLRACE_BROKER_PORT", address)
	}
	return fmt.Errorf("The embedded broker cannot start: %w. Its messages are in %s: remove that folder to start over", err, data)
}

// serveHealth answers /live and /ready, as the other components do: ready means that the broker answers as Kafka does.
func serveHealth(health, address string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(address))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", health)
	if err != nil {
		return fmt.Errorf("%s is in use by another program. Choose another port: MILLRACE_HEALTH_PORT", health)
	}
	routes := http.NewServeMux()
	routes.HandleFunc("/live", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil) })
	routes.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
		defer cancel()
		answer(w, client.Ping(ctx))
	})
	server := &http.Server{Handler: routes, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	return nil
}

func answer(w http.ResponseWriter, problem error) {
	w.Header().Set("Content-Type", "application/json")
	if problem != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, `{"status": "unavailable", "reason": %q}`, problem.Error())
		return
	}
	fmt.Fprint(w, `{"status": "ok", "reason": ""}`)
}

func say(format string, values ...any) {
	fmt.Printf(time.Now().UTC().Format(time.DateTime)+" "+format+"\n", values...)
}
