# Millrace's roles and databases, created on the server's first start; the entrypoint sources this file.
# Airflow's metadata and Feast's registry have a role each; feature servers have one that can only read the registry.
role() {
  local password
  password=$(cat "/run/secrets/$2")
  printf "CREATE ROLE %s LOGIN PASSWORD '%s';\n" "$1" "${password//\'/\'\'}"
}
statements=$(
  role airflow airflow_password
  role registry registry_password
  role registry_reader registry_reader_password
)
psql -q -v ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname=postgres <<SQL
$statements
CREATE DATABASE airflow OWNER airflow;
CREATE DATABASE registry OWNER registry;
REVOKE CONNECT ON DATABASE airflow, registry FROM PUBLIC;
GRANT CONNECT ON DATABASE registry TO registry_reader;
SQL
psql -q -v ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname=registry <<'SQL'
ALTER DEFAULT PRIVILEGES FOR ROLE registry GRANT SELECT ON TABLES TO registry_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE registry GRANT USAGE ON SCHEMAS TO registry_reader;
SQL
