"""The systemd unit of the daemon, and where `service print` puts this machine's paths into it."""
