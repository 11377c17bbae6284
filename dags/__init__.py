"""WHEN: DAG files and nothing else. What their tasks do is in `millrace`.

Airflow puts this folder on `sys.path`, so no file here has the name of a package: `dags/millrace.py` would be what
`import millrace` finds.
"""
