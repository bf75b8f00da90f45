systemd-sysusers bywash.conf
systemd-tmpfiles --create bywash.conf
# Passwords may stand in it, and the publisher has to read it.
if [ "$1" -eq 1 ]; then
	chgrp bywash /etc/bywash/bywash.toml
	chmod 0640 /etc/bywash/bywash.toml
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || :
	# An upgrade: what ran goes on with what was installed.
	if [ "$1" -gt 1 ]; then
		systemctl try-restart fs-agent.service publisher.service fs-agent-cleanup.timer || :
	fi
fi
