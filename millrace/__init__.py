"""The application: it composes the four packages below into runs, and is the command line, the services and the page in
Airflow.
"""
