"""A shop whose new release is bad: real git, Prometheus, Alertmanager and rollbackd, all on loopback."""
