"""What touches a job's directory and processes: the launcher in the daemon, the shim beside the job."""
