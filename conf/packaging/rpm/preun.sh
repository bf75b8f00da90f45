# Not at an upgrade. The agent first: it takes its overlays off, and the publisher has its last events to deliver.
if [ "$1" -eq 0 ]; then
	if [ -d /run/systemd/system ]; then
		systemctl disable --now fs-agent-cleanup.timer fs-agent.service || :
		systemctl disable --now publisher.service || :
		systemctl stop bywash.target || :
	fi
	fs-agent cleanup --now || :
fi
