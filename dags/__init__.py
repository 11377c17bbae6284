"""WHEN: wiring only. DAG files, the command line that mirrors them, and the steps that both compose from the four rooms."""
