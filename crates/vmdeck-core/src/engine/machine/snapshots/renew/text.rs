//! Pieces of a POSIX shell's text that are the same for every way to renew a guest.

/// Stops the timers of systemd, and cron, so that what was due while the guest stood still is not run at once.
pub(super) const HOLD_TIMERS: &str = "t= c=
if command -v systemctl >/dev/null 2>&1; then
  t=$(systemctl list-units --type=timer --state=active --plain --no-legend </dev/null 2>/dev/null | cut -d' ' -f1)
  for s in cron crond anacron; do systemctl -q is-active $s </dev/null 2>/dev/null && c=\"$c $s.service\"; done
  [ -z \"$t$c\" ] || systemctl stop $t $c </dev/null >/dev/null 2>&1
fi
";

/// Lets them go again: for systemd they were due just now.
pub(super) const LET_TIMERS_GO: &str = "touch -c /var/lib/systemd/timers/stamp-* 2>/dev/null
[ -z \"$t$c\" ] || systemctl start $t $c </dev/null >/dev/null 2>&1
";

/// Gives the machine the id in `$id`. A place that cannot be written to keeps the old one, as it does over each boot.
pub(super) const NEW_ID: &str = "for f in /etc/machine-id /var/lib/dbus/machine-id; do
  [ -f \"$f\" ] && [ ! -L \"$f\" ] && [ -s \"$f\" ] && echo \"$id\" 2>/dev/null >\"$f\"
done
";
