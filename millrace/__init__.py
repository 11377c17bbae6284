"""The application: it composes the four rooms into runs, and is the command line, the services and the page in
Airflow.
"""
