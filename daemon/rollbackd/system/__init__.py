"""What touches the operating system: the clock, the spawner, locks, redaction, logs, systemd. It knows no rollback."""
