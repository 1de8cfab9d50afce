#!/bin/sh
# A cluster of 2 to 5 LXD members on ONE machine, for tests. Root only; no image server, no outside network.
#
#   cluster.sh start [N]      make and start N members (default 3), or start again those that are down
#   cluster.sh image          build a small Linux (busybox, DHCP, SSH if dropbear is there), import it as `micro`
#   cluster.sh lxc [ARG...]   the `lxc` command, at the first member (MEMBER=m2: at another one)
#   cluster.sh exec M CMD...  a command in the network of member M: from there the instances' addresses answer
#   cluster.sh kill M         end member M without a word, as a power cut does (its instances die too)
#   cluster.sh status         daemons, members, instances
#   cluster.sh stop           end the instances and the daemons; what they know stays on the disk
#   cluster.sh clean          stop, then remove everything that `start` and `image` made
#   cluster.sh wipe           the same without asking anybody to stop: a power cut of all members
#
# How: each member is one daemon with its own LXD_DIR in its own network and mount namespace. All members and all
# instances share one layer-2 segment: bridges `br0` joined by veth pairs to a bridge in a "switch" namespace, where
# dnsmasq gives out addresses. Nothing touches the host's own network: no address, no route, no firewall rule.
#
#   DIR      where it all lives            (default /var/tmp/lxd-cluster; short: socket paths end at 108 bytes)
#   PREFIX   names of the namespaces       (default lxdt)
#   SUBNET   first three numbers           (default 10.93.77)
#   KEY      a public key for root's SSH   (default: none)
set -eu

DIR=${DIR:-/var/tmp/lxd-cluster}
PREFIX=${PREFIX:-lxdt}
SUBNET=${SUBNET:-10.93.77}
MEMBER=${MEMBER:-m1}
LXD=${LXD:-$(command -v lxd || echo /usr/bin/lxd)}
LXD_CONF=$DIR/client
export LXD_CONF
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }
die() { printf 'lxd-cluster: %s\n' "$*" >&2; exit 1; }
at() { m=$1; shift; LXD_DIR=$DIR/$m "$@"; }
members() { for d in "$DIR"/m[0-9]*; do [ -d "$d" ] && basename "$d"; done; return 0; }

# The process of a pid file, if it still is what we started: the start time is part of the file.
alive() {
    [ -r "$1" ] || return 1
    read -r pid born <"$1" || return 1
    [ "$(cut -d' ' -f22 "/proc/$pid/stat" 2>/dev/null)" = "$born" ]
}
note() { printf '%s %s\n' "$2" "$(cut -d' ' -f22 "/proc/$2/stat")" >"$1"; }
end() { # pid file, signal, seconds
    alive "$1" || { rm -f "$1"; return 0; }
    read -r pid born <"$1"
    kill "-$2" "$pid" 2>/dev/null || true
    n=0
    while alive "$1"; do
        n=$((n + 1))
        [ $n -lt $(($3 * 10)) ] || return 1
        sleep 0.1
    done
    rm -f "$1"
}

net() {
    ns=$PREFIX-sw
    if ! [ -e "/run/netns/$ns" ]; then
        say "network: namespace $ns, bridge br0, $SUBNET.1/24"
        ip netns add "$ns"
        ip -n "$ns" link set lo up
        ip -n "$ns" link add br0 type bridge forward_delay 0
        ip -n "$ns" addr add "$SUBNET.1/24" dev br0
        ip -n "$ns" link set br0 up
        # Packets between veths carry no UDP checksum; small DHCP clients throw such answers away.
        nsenter --net="/run/netns/$ns" ethtool -K br0 tx off >/dev/null 2>&1 || nsenter --net="/run/netns/$ns" \
            iptables -t mangle -A POSTROUTING -p udp --dport 68 -j CHECKSUM --checksum-fill 2>/dev/null ||
            say "network: no ethtool, no iptables: instances may get no address"
    fi
    if ! alive "$DIR/dnsmasq.pid"; then
        say "network: dnsmasq gives out $SUBNET.100-250"
        nsenter --net="/run/netns/$ns" dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface=br0 \
            --bind-interfaces --dhcp-authoritative --no-ping --dhcp-range="$SUBNET.100,$SUBNET.250,1h" \
            --dhcp-leasefile="$DIR/leases" --pid-file= --user=root >"$DIR/dnsmasq.log" 2>&1 </dev/null &
        note "$DIR/dnsmasq.pid" $!
    fi
}

plug() { # member, number
    ns=$PREFIX-$1
    [ -e "/run/netns/$ns" ] && return 0
    say "network: namespace $ns, bridge br0, $SUBNET.$((10 + $2))/24"
    ip netns add "$ns"
    ip -n "$ns" link set lo up
    ip -n "$ns" link add br0 type bridge forward_delay 0
    ip -n "$ns" link add uplink type veth peer name "$1" netns "$PREFIX-sw"
    ip -n "$ns" link set uplink master br0
    ip -n "$ns" link set uplink up
    ip -n "$ns" addr add "$SUBNET.$((10 + $2))/24" dev br0
    ip -n "$ns" link set br0 up
    ip -n "$PREFIX-sw" link set "$1" master br0
    ip -n "$PREFIX-sw" link set "$1" up
}

daemon() { # member
    alive "$DIR/$1.pid" && return 0
    mkdir -p "$DIR/$1" "$DIR/cg"
    # A network namespace needs a /sys of its own; the control groups are carried over into it.
    nsenter --net="/run/netns/$PREFIX-$1" unshare --mount --propagation private sh -c '
        mount --rbind /sys/fs/cgroup "$1/cg" && mount -t sysfs sysfs /sys && mount --rbind "$1/cg" /sys/fs/cgroup &&
        LXD_DIR=$1/$2 exec "$3" --group root --logfile "$1/$2.log"' sh "$DIR" "$1" "$LXD" \
        >"$DIR/$1.out" 2>&1 </dev/null &
    note "$DIR/$1.pid" $!
    at "$1" "$LXD" waitready --timeout 60 || { tail -5 "$DIR/$1.out" "$DIR/$1.log" >&2; die "member $1 does not come up"; }
    say "daemon $1 is up (pid $(cut -d' ' -f1 "$DIR/$1.pid"))"
}

profile() {
    printf '%s\n' "profiles:" "- name: default" "  devices:" "    root: {type: disk, path: /, pool: default}" \
        "    eth0: {type: nic, nictype: bridged, parent: br0, name: eth0}"
}

start() {
    count=${1:-3}
    case $count in [1-5]) ;; *) die "1 to 5 members, not \`$count\`" ;; esac
    [ "$(id -u)" = 0 ] || die "only root can do this"
    for tool in lxc ip nsenter unshare dnsmasq "$LXD"; do command -v "$tool" >/dev/null || die "missing: $tool"; done
    old=$(members | wc -l)
    [ "$old" = 0 ] || [ "$old" = "$count" ] || [ $# = 0 ] || die "there are $old members already; \`clean\` first"
    [ "$old" = 0 ] || count=$old
    mkdir -p "$DIR" "$LXD_CONF"
    chmod 711 "$DIR" # The instances' users have to pass.
    net
    i=1
    while [ $i -le "$count" ]; do plug "m$i" $i; i=$((i + 1)); done
    if [ "$old" != 0 ]; then # All at once: a member that was in a cluster waits for the others.
        i=1
        jobs=
        while [ $i -le "$count" ]; do ( daemon "m$i" ) & jobs="$jobs $!"; i=$((i + 1)); done
        # For some seconds a cluster takes a member that has just died for ONLINE: so its daemon is waited for first.
        for job in $jobs; do wait "$job" || die "not every member has come up again"; done
        wait_for_members "$count"
        return
    fi
    daemon m1
    { printf '%s\n' "config: {core.https_address: '$SUBNET.11:8443'}" \
        "cluster: {server_name: m1, enabled: true}" "storage_pools:" "- {name: default, driver: dir}"
      profile; } | at m1 "$LXD" init --preseed >/dev/null
    # Only now: asked before there is a cluster, LXD 5.0.2 drops the connection (EOF). 11 s is the least; the default is 20.
    at m1 lxc config set cluster.offline_threshold 11
    say "cluster formed by m1"
    i=2
    while [ $i -le "$count" ]; do
        daemon "m$i"
        join "m$i" "$SUBNET.$((10 + i)):8443"
        i=$((i + 1))
    done
    wait_for_members "$count"
}

join() { # member, address
    token=$(at m1 lxc cluster add "$1" | tail -1)
    # `lxd init` itself, not its daemon, looks at m1's certificate: so it runs in the member's network.
    printf '%s\n' "cluster:" "  enabled: true" "  server_name: $1" "  server_address: '$2'" "  cluster_token: '$token'" |
        at "$1" nsenter --net="/run/netns/$PREFIX-$1" "$LXD" init --preseed >/dev/null || die "$1 cannot join"
    say "$1 has joined"
}

wait_for_members() {
    n=0
    until [ "$(at m1 timeout 10 lxc cluster list --format csv 2>/dev/null | grep -c 'ONLINE')" = "$1" ]; do
        n=$((n + 1))
        [ $n -lt 60 ] || die "not all $1 members are online"
        sleep 0.5
    done
    say "all $1 members are online"
}

image() {
    work=$DIR/image
    rm -rf "$work"
    mkdir -p "$work/rootfs"
    cd "$work/rootfs"
    mkdir -p bin sbin etc proc sys dev tmp root/.ssh run var/log usr/share/udhcpc usr/bin usr/sbin
    chmod 700 root root/.ssh
    cp "$(command -v busybox)" bin/busybox
    for applet in $(bin/busybox --list); do [ -e "bin/$applet" ] || ln -s busybox "bin/$applet"; done
    ln -s ../bin/busybox sbin/init
    printf 'root::0:0:root:/root:/bin/sh\n' >etc/passwd
    printf 'root:x:0:\n' >etc/group
    printf 'root:*:1::::::\n' >etc/shadow
    printf '/bin/sh\n' >etc/shells
    cat >usr/share/udhcpc/default.script <<'SH'
#!/bin/sh
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
ip addr flush dev "$interface"
ip addr add "$ip/${mask:-24}" dev "$interface"
[ -z "$router" ] || ip route replace default via "${router%% *}"
SH
    cat >etc/rc <<'SH'
#!/bin/sh
mkdir -p /run /tmp; hostname -F /etc/hostname 2>/dev/null
ip link set lo up; ip link set eth0 up
udhcpc -b -S -s /usr/share/udhcpc/default.script -i eth0 -t 10 -T 1 -x "hostname:$(hostname)" >/dev/null 2>&1
[ -x /usr/sbin/dropbear ] && /usr/sbin/dropbear -R -s
echo "micro: ready"
SH
    printf '%s\n' '::sysinit:/etc/rc' 'console::respawn:-/bin/sh' 'null::respawn:/bin/sleep 1000000' >etc/inittab
    chmod 755 etc/rc usr/share/udhcpc/default.script
    if dropbear=$(command -v dropbear); then
        mkdir -p etc/dropbear
        cp "$dropbear" usr/sbin/dropbear
    fi
    # What they need besides themselves; a static one says so on standard error.
    for program in bin/busybox usr/sbin/dropbear; do
        ldd "$program" 2>/dev/null | grep -o '/[^ ]*' | while read -r lib; do mkdir -p ".${lib%/*}"; cp -L "$lib" ".$lib"; done
    done
    [ -z "${KEY:-}" ] || { cp "$KEY" root/.ssh/authorized_keys; chmod 600 root/.ssh/authorized_keys; }
    cd ..
    printf '%s\n' "architecture: $(uname -m)" "creation_date: 1700000000" \
        "properties: {os: micro, release: '1', description: 'busybox for tests'}" "templates:" "  /etc/hostname:" \
        "    when: [create, copy]" "    template: hostname.tpl" >metadata.yaml
    mkdir -p templates
    echo '{{ container.name }}' >templates/hostname.tpl
    chown -R 0:0 .
    tar -czf ../micro.tar.gz metadata.yaml templates rootfs
    cd ..
    rm -rf "$work"
    at m1 lxc image delete micro >/dev/null 2>&1 || true
    at m1 lxc image import micro.tar.gz --alias micro >/dev/null
    say "image micro: $(du -k micro.tar.gz | cut -f1) KiB"
}

status() {
    [ -d "$DIR" ] || { say "nothing is there"; return 0; }
    for m in $(members); do
        if alive "$DIR/$m.pid"; then say "$m: pid $(cut -d' ' -f1 "$DIR/$m.pid")"; else say "$m: down"; fi
    done
    at "$MEMBER" timeout 20 lxc cluster list || true
    at "$MEMBER" timeout 20 lxc list --all-projects -c nstL4 || true
}

# What a member's instances run as. Their monitors carry the member's folder on their command line.
monitors() { for p in /proc/[0-9]*; do { tr '\0' ' ' <"$p/cmdline"; } 2>/dev/null | grep -q "^\[lxc monitor\] $DIR/$1/" && basename "$p"; done; return 0; }

cut_off() { # member
    end "$DIR/$1.pid" KILL 10 || die "the daemon $1 does not die"
    for pid in $(monitors "$1"); do
        for child in $(cat "/proc/$pid/task/$pid/children" 2>/dev/null); do kill -KILL "$child" 2>/dev/null || true; done
        kill -KILL "$pid" 2>/dev/null || true
    done
    say "$1 is cut off"
}

stop() {
    [ -d "$DIR" ] || { say "nothing is there"; return 0; }
    for m in $(members); do
        # SIGPWR: stop the instances, then end. The last member has no quorum any more and would wait for ever.
        alive "$DIR/$m.pid" || continue
        ( end "$DIR/$m.pid" PWR 8 || end "$DIR/$m.pid" TERM 3 || end "$DIR/$m.pid" KILL 5 || true ) &
    done
    wait
    for m in $(members); do cut_off "$m" >/dev/null; done
    end "$DIR/dnsmasq.pid" TERM 5 || true
    say "all daemons have ended"
}

cut_off_all() {
    for m in $(members); do cut_off "$m" >/dev/null; done
    end "$DIR/dnsmasq.pid" KILL 5 || true
}

clean() { # what ends it
    [ -d "$DIR" ] || [ -e "/run/netns/$PREFIX-sw" ] || { say "nothing is there"; return 0; }
    "$1"
    for ns in /run/netns/"$PREFIX"-*; do [ -e "$ns" ] && ip netns delete "$(basename "$ns")"; done
    # The daemons' mounts went with their namespaces; anything left here is a mount of the host: do not descend into it.
    if grep -q " $DIR/" /proc/self/mountinfo; then die "mounts are left under $DIR: $(grep -c " $DIR/" /proc/self/mountinfo)"; fi
    chattr -R -i "$DIR" 2>/dev/null || true
    rm -rf --one-file-system "$DIR"
    say "removed $DIR and the namespaces $PREFIX-*"
}

case ${1:-} in
start) shift; start "$@" ;;
image) image ;;
lxc) shift; at "$MEMBER" exec lxc "$@" ;;
exec) [ $# -ge 3 ] || die "exec MEMBER COMMAND..."; m=$2; shift 2; LXD_DIR=$DIR/$m exec nsenter --net="/run/netns/$PREFIX-$m" "$@" ;;
kill) [ $# = 2 ] || die "kill MEMBER"; cut_off "$2" ;;
status) status ;;
stop) stop ;;
clean) clean stop ;;
wipe) clean cut_off_all ;;
*) sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
