"""What Millrace adds to Airflow's pages. Airflow loads every module here as a plugin."""
