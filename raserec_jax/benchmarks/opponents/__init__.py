"""Self-contained scripts that other libraries' interpreters run; nothing of ours imports them or is imported here."""
