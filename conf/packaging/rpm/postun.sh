if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || :
fi
# /var/lib/bywash stays: it may hold events that were not delivered.
if [ "$1" -eq 0 ]; then
	rm -rf /run/bywash
	rm -f /dev/shm/bywash.*.ring /dev/shm/bywash.*.ack
fi
