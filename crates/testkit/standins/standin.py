#!/usr/bin/python3 -ISE
"""A stand-in for `multipass`, `utmctl` and macOS's `open`: tests only. The name that it is called by decides which it is.

It behaves as the tools do, their traps included: exit codes, words, spinner bytes, uneven JSON types. Its world is the file
world.json in the folder above the one that it is called from; guests are folders beside it, and their commands run on this
host. What should go wrong is in `faults`, each {"on": command, ...}:
    tool        only for this tool
    arg         only when an argument contains this
    skip, times not for the first `skip` calls; for `times` calls after that (1; -1 = for ever)
    delay       seconds before anything else
    effect      "none": nothing is done; "full": it is done, and fails all the same
    exit, stdout, stderr   what is said instead; `event` (with `text`) says it in the words of utmctl, and exits with 0
    localized   the same in Japanese
    signal      the tool dies of it
    gui         only outside of a graphical session (without GUI in the environment)
Every call is appended to calls.jsonl.
"""
import fcntl, json, os, re, shlex, shutil, signal, subprocess, sys, time

ME = os.path.basename(sys.argv[0])
HOME = os.path.dirname(os.path.dirname(os.path.abspath(sys.argv[0])))
ARGS = sys.argv[1:]


class World:
    """The file, locked for as long as the block lasts; written back at its end."""

    def __enter__(self):
        self.lock = open(os.path.join(HOME, "world.lock"), "a")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        with open(os.path.join(HOME, "world.json")) as f:
            self.text = f.read()
        self.data = json.loads(self.text)
        return self.data

    def __exit__(self, *error):
        text = json.dumps(self.data, indent=1)
        if text != self.text:
            path = os.path.join(HOME, "world.json")
            with open(path + ".new", "w") as f:
                f.write(text)
            os.rename(path + ".new", path)
        self.lock.close()


def say(text):
    sys.stdout.write(text)
    sys.stdout.flush()


def complain(text):
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def event_error(code, text="", localized=False):
    """What utmctl prints when an Apple event fails; it goes on and exits with 0."""
    if localized:
        complain("イベントのエラー: 操作を完了できませんでした。（OSStatusエラー%d）" % code)
    else:
        complain("Error from event: The operation couldn’t be completed. (OSStatus error %d.)" % code)
    if text:
        complain(text)
    if code == -1743:
        complain("NOTE: utmctl does not work from SSH sessions or before logging in.")


def fault(command):
    """The fault for this call, if there is one."""
    with World() as w:
        for rule in w.get("faults", []):
            if rule["on"] not in (command, "*") or rule.get("tool", ME) != ME:
                continue
            if "arg" in rule and not any(rule["arg"] in a for a in ARGS):
                continue
            if rule.get("gui") and os.environ.get("GUI"):
                continue
            if rule.get("skip", 0) > 0:
                rule["skip"] -= 1
                continue
            if rule.get("times", 1) == 0:
                continue
            if rule.get("times", 1) > 0:
                rule["times"] = rule.get("times", 1) - 1
            return dict(rule)
    return None


def carry_out(rule):
    """Does what the fault says, in place of the end of the command."""
    say(rule.get("stdout", ""))
    if "event" in rule:
        event_error(rule["event"], rule.get("text", ""), rule.get("localized", False))
    if rule.get("stderr"):
        complain(rule["stderr"])
    if "signal" in rule:
        os.kill(os.getpid(), rule["signal"])
    sys.exit(rule.get("exit", 0))


def guest_folder(name):
    path = os.path.join(HOME, "guests", name.replace("/", "_"))
    os.makedirs(path, exist_ok=True)
    return path


def guest_process(name, argv, stdin, stdout, stderr, env=()):
    base = {"PATH": guest_folder(name) + "/bin:" + os.environ.get("PATH", "/usr/bin:/bin"), "HOME": guest_folder(name), "STANDIN_GUEST": name}
    base.update(env)
    return subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, cwd=guest_folder(name), env=base, start_new_session=True)


def guest_goes_down(name):
    """Whatever ran in it ends."""
    mark = b"STANDIN_GUEST=" + name.encode() + b"\0"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % pid, "rb") as f:
                if mark in f.read() and HOME.encode() in open("/proc/%s/environ" % pid, "rb").read():
                    os.kill(int(pid), signal.SIGKILL)
        except OSError:
            pass


# --- multipass ---------------------------------------------------------------------------------------------------------

SPIN = "\x1b[2K\x1b[0A\x1b[0E"


def spin(text):
    say(SPIN + text + "  " + "".join("\b" + c for c in "|/-\\|"))


def mp_fail(command, message, details="", code=2):
    complain("%s failed: %s" % (command, message))
    if details:
        complain(details)
    sys.exit(code)


def mp_find(w, command, name, listed=True):
    machine = w["multipass"]["machines"].get(name)
    head = "The following errors occurred:\n" if listed else ""
    if machine is None:
        mp_fail(command, '%sinstance "%s" does not exist' % (head, name))
    if machine["state"] == "Deleted":
        mp_fail(command, '%sinstance "%s" is deleted' % (head, name))
    return machine


def option(args, *names, default=None):
    for i, a in enumerate(args):
        if a in names and i + 1 < len(args):
            return args[i + 1]
    return default


def positional(args, flags_with_value):
    out, skip = [], False
    for a in args:
        if skip:
            skip = False
        elif a in flags_with_value:
            skip = True
        elif not a.startswith("-"):
            out.append(a)
    return out


def size(text):
    m = re.fullmatch(r"(\d+)(?:([KMG])(?:i?B)?|B)?", text or "", re.I)
    return int(m[1]) * {None: 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[m[2] and m[2].upper()] if m else None


def mp_launch(args):
    with_value = ["--name", "-n", "--cpus", "-c", "--memory", "-m", "--disk", "-d", "--timeout", "--cloud-init", "--mount", "--network"]
    name = option(args, "--name", "-n", default="primary")
    images = positional(args, with_value)
    timeout = option(args, "--timeout", default="300")
    if not timeout.isdigit() or int(timeout) == 0:
        complain("error: --timeout value has to be a positive integer")
        sys.exit(1)
    if not (option(args, "--cpus", "-c", default="1")).isdigit():
        complain("Error: invalid CPU count '%s', need a positive integer value." % option(args, "--cpus", "-c"))
        sys.exit(1)
    for image in images:
        if ":" in image and not image.startswith(("http", "file", "release:", "daily:")):
            mp_fail("launch", 'Remote "%s" is unknown or unreachable. If image mirror is enabled, please confirm it is valid.' % image.split(":")[0])
        if image in ("nosuch",):
            mp_fail("launch", 'Unable to find an image matching "%s" in remote "".' % image)
    for what, flag, least in [("disk", "--disk", 512 << 20), ("memory", "--memory", 128 << 20)]:
        n = size(option(args, flag, default="5G"))
        if n is None or n < least:
            mp_fail("launch", "Invalid arguments supplied", "Invalid %s size value supplied: %s." % (what, option(args, flag)))
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name):
        mp_fail("launch", "Invalid arguments supplied", "Invalid instance name supplied: %s." % name)
    with World() as w:
        if name in w["multipass"]["machines"]:
            mp_fail("launch", 'instance "%s" already exists' % name)
        if name in w["multipass"].setdefault("preparing", []):
            mp_fail("launch", 'instance "%s" is being prepared' % name)
        w["multipass"]["preparing"].append(name)
        times = dict(w["multipass"])
    # The daemon goes on whatever becomes of its client, and its own arguments do not name the machine.
    order = os.path.join(HOME, "order-%d.json" % os.getpid())
    with open(order, "w") as f:
        json.dump([name, args, times], f)
    nowhere = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    daemon = subprocess.Popen([os.path.join(HOME, "bin", "multipassd"), order], start_new_session=True, **nowhere)
    deadline = time.monotonic() + int(timeout)
    spin("Retrieving image: 7%")
    spin("Starting " + name)
    while daemon.poll() is None:
        if time.monotonic() > deadline:
            complain("Timed out waiting for instance launch.")
            sys.exit(5)
        spin("Waiting for initialization to complete")
        time.sleep(0.005)
    say(SPIN + "Launched: %s\n" % name)


def multipassd():
    with open(ARGS[0]) as f:
        name, args, times = json.load(f)
    os.remove(ARGS[0])
    time.sleep(times.get("prepare", 0))
    with World() as w:
        w["multipass"]["preparing"].remove(name)
        number = w["multipass"]["number"] = w["multipass"].get("number", 10) + 1
        w["multipass"]["machines"][name] = {
            "state": "Starting", "ipv4": ["10.21.124.%d" % number], "cpus": option(args, "--cpus", "-c", default="1"),
            "memory": option(args, "--memory"), "disk": option(args, "--disk"), "used": 1288490188, "snapshots": {},
            "mounts": [args[i + 1] for i, a in enumerate(args) if a == "--mount"],
        }
    guest_folder(name)
    time.sleep(times.get("boot", 0))
    with World() as w:
        if name in w["multipass"]["machines"]:
            w["multipass"]["machines"][name]["state"] = "Running"


def mp_info(args):
    names = positional(args, ["--format"])
    out = {}
    with World() as w:
        for name in names:
            m = mp_find(w, "info", name)
            up = m["state"] in ("Running", "Delayed Shutdown")
            out[name] = {
                "cpu_count": m.get("cpus", "1") if up else "",
                "disks": {"sda1": {"total": "5153960756", "used": str(m.get("used", 0))} if up else {}},
                "image_hash": "1797c5c8", "image_release": "24.04 LTS", "ipv4": m.get("ipv4", []) if up else [],
                "load": [0.45, 0.51, 0.15] if up else [], "memory": {"total": 1503238554, "used": 60817408} if up else {},
                "mounts": {}, "release": "Ubuntu 24.04.3 LTS" if up else "", "snapshot_count": str(len(m.get("snapshots", {}))),
                "state": m["state"],
            }
    say(json.dumps({"errors": [], "info": out}, indent=4, sort_keys=True) + "\n")


def mp_list(args):
    with World() as w:
        machines = w["multipass"]["machines"]
        if "--snapshots" in args:
            shots = {n: {s: {"comment": "", "parent": ""} for s in m.get("snapshots", {})} for n, m in machines.items() if m.get("snapshots")}
            return say(json.dumps({"errors": [], "info": shots}, indent=4, sort_keys=True) + "\n")
        rows = []
        for name, m in machines.items():
            row = {"name": name, "release": "Ubuntu 24.04 LTS" if m["state"] != "Unknown" else "Not Available", "state": m["state"]}
            if "--no-ipv4" not in args:
                row["ipv4"] = (m.get("ipv4") or ["N/A"]) if m["state"] in ("Running", "Delayed Shutdown") else []
            rows.append(row)
    if option(args, "--format") == "json":
        say(json.dumps({"list": rows}, indent=4, sort_keys=True) + "\n")
    elif not rows:
        say("No instances found.\n")
    else:
        say("%-24s%-18s%-17s%s\n" % ("Name", "State", "IPv4", "Image"))
        for r in rows:
            ips = r.get("ipv4") or ["--"]
            say("%-24s%-18s%-17s%s\n" % (r["name"], r["state"], ips[0], r["release"]))
            for ip in ips[1:]:
                say("%-42s%s\n" % ("", ip))


def mp_exec(args):
    if "--" not in args:
        complain("Wrong number of arguments")
        sys.exit(1)
    at = args.index("--")
    name = positional(args[:at], ["-d", "--working-directory"])[0]
    argv = args[at + 1:]
    mapped = "-n" not in args[:at] and "--no-map-working-directory" not in args[:at]
    with World() as w:
        if name not in w["multipass"]["machines"] and mapped:
            complain('info failed: The following errors occurred:\ninstance "%s" does not exist' % name)
        m = mp_find(w, "exec", name)
        if m["state"] in ("Stopped", "Suspended"):
            # Trap 8: it starts the machine, as if nothing had happened.
            m["state"] = "Running"
            m["started_by_exec"] = True
        dies = m.get("exec_dies", 0) if "sleep" in " ".join(argv) else 0
        # Within the lock: whoever takes the machine down sees it.
        p = guest_process(name, ["/bin/sh", "-c", " ".join(shlex.quote(a) for a in argv)], None, None, None)
    if dies:
        time.sleep(dies)
        complain("exec failed: ssh connection lost")
        os._exit(2)
    code = p.wait()
    sys.exit(code if code >= 0 else 255)


def mp_stop(args):
    names = positional(args, ["-t", "--time"])
    with World() as w:
        for name in names:
            m = mp_find(w, "stop", name)
            if m["state"] in ("Suspended", "Suspending", "Starting") and "--force" not in args:
                why = {"Suspended": "suspended instance %s." % name, "Starting": "instance %s while starting." % name}
                mp_fail("stop", "Cannot shut down " + why.get(m["state"], "instance %s while suspending." % name), "Use --force to power it off.")
            m["state"] = "Stopped"
            guest_goes_down(name)
    for name in names:
        spin("Stopping " + name)
    say(SPIN)


def mp_start(args):
    names = positional(args, ["--timeout"]) or ["primary"]
    with World() as w:
        missing = []
        for name in names:
            m = w["multipass"]["machines"].get(name)
            if m is None:
                missing.append("Instance '%s' does not exist." % name)
            elif m["state"] == "Deleted":
                missing.append("Instance '%s' is deleted. Use 'recover' to recover it or 'purge' to permanently delete it." % name)
            else:
                m["state"] = "Running"
                m.setdefault("ipv4", ["10.21.124.9"])
        if missing:
            mp_fail("start", "instance(s) missing", "\n".join(missing))
    for name in names:
        spin("Starting " + name)
    say(SPIN)


def mp_delete(args):
    purge = "--purge" in args or "-p" in args
    with World() as w:
        for name in positional(args, []):
            m = w["multipass"]["machines"].get(name)
            if m is None:
                mp_fail("delete", 'The following errors occurred:\ninstance "%s" does not exist' % name)
            if m["state"] in ("Starting", "Suspended", "Suspending") and not purge:
                mp_fail("delete", "Cannot shut down instance %s while starting." % name, "Use --purge to forcefully delete it.")
            guest_goes_down(name)
            if purge:
                del w["multipass"]["machines"][name]
                shutil.rmtree(guest_folder(name), ignore_errors=True)
            else:
                m["state"] = "Deleted"


def mp_snapshot(args):
    name = positional(args, ["-n", "--name", "-m", "--comment"])[0]
    with World() as w:
        m = mp_find(w, "snapshot", name, listed=False)
        if m["state"] != "Stopped":
            mp_fail("snapshot", "Multipass can only take snapshots of stopped instances.")
        tag = option(args, "-n", "--name", default="snapshot%d" % (len(m.setdefault("snapshots", {})) + 1))
        if tag in m["snapshots"]:
            mp_fail("snapshot", "Snapshot already exists: %s.%s" % (name, tag))
        m["snapshots"][tag] = sorted(os.listdir(guest_folder(name)))
    spin("Taking snapshot of " + name)
    say(SPIN + "Snapshot taken: %s.%s\n" % (name, tag))


def mp_restore(args):
    name, _, tag = positional(args, [])[0].partition(".")
    if "--destructive" not in args:
        complain("[client] Caught an unhandled exception: Unable to query client for confirmation. Use '--destructive' to automatically discard current machine state.")
        sys.exit(1)
    with World() as w:
        m = mp_find(w, "restore", name, listed=False)
        if tag not in m.get("snapshots", {}):
            mp_fail("restore", "No such snapshot: %s.%s" % (name, tag))
        for entry in os.listdir(guest_folder(name)):
            if entry not in m["snapshots"][tag]:
                os.remove(os.path.join(guest_folder(name), entry))
    say(SPIN + "Snapshot restored: %s.%s\n" % (name, tag))


def multipass():
    command = ARGS[0] if ARGS else ""
    args = ARGS[1:]
    with World() as w:
        daemon = w["multipass"].get("daemon")
        client = w["multipass"].get("client", "1.16.3")
    if command == "version":
        # Trap 6: it succeeds without a daemon.
        return say(json.dumps({"multipass": client, **({"multipassd": daemon} if daemon else {})}, indent=4) + "\n")
    known = {
        "launch": mp_launch, "info": mp_info, "list": mp_list, "exec": mp_exec, "stop": mp_stop, "start": mp_start,
        "delete": mp_delete, "snapshot": mp_snapshot, "restore": mp_restore, "suspend": mp_suspend, "purge": mp_purge,
        "recover": mp_recover,
    }
    if command not in known:
        say("Error: Unknown command or alias '%s' (try \"multipass help\" or \"multipass aliases\")\n" % command)
        sys.exit(1)
    if not daemon:
        # Trap 7: 2, as every refusal.
        mp_fail(command, "cannot connect to the multipass socket")
    known[command](args)


def mp_suspend(args):
    with World() as w:
        for name in positional(args, []):
            mp_find(w, "suspend", name)["state"] = "Suspended"


def mp_purge(_):
    # Trap 10: everything that is deleted, whoever deleted it.
    with World() as w:
        machines = w["multipass"]["machines"]
        for name in [n for n, m in machines.items() if m["state"] == "Deleted"]:
            del machines[name]


def mp_recover(args):
    with World() as w:
        for name in positional(args, []):
            w["multipass"]["machines"][name]["state"] = "Stopped"


# --- utmctl ------------------------------------------------------------------------------------------------------------

NOT_RUNNING = "The virtual machine is not running."
NO_AGENT = "The QEMU guest agent is not running or not installed on the guest."


class Refused(Exception):
    """UTM says no: the words go to standard error, and the exit code is 0 all the same."""


def utm_find(w, name):
    for key in ("uuid", "name"):
        for m in w["utm"]["machines"]:
            if m[key] == name:
                return m
    complain("Error: Virtual machine not found.")
    sys.exit(1)


def settle(m):
    """A machine that is starting or stopping is looked at: it gets on."""
    if m.get("polls", 0) > 0:
        m["polls"] -= 1
        if m["polls"] == 0:
            m["status"] = m.pop("becomes", m["status"])


def with_agent(m):
    if m["status"] != "started":
        raise Refused(NOT_RUNNING)
    if m.get("backend") == "Apple":
        raise Refused("Operation not supported by the backend.")
    if m.get("agent_after", 0) > 0:
        m["agent_after"] -= 1
        raise Refused(NO_AGENT)
    if m.get("agent") is False:
        raise Refused(NO_AGENT)


def utm_list(args):
    say("UUID                                 Status   Name\n")
    with World() as w:
        for m in w["utm"]["machines"]:
            settle(m)
            say("%s %s %s\n" % (m["uuid"], m["status"].ljust(8), m["name"]))


def utm_status(args):
    with World() as w:
        m = utm_find(w, args[0])
        settle(m)
        say(m["status"] + "\n")


def utm_start(args):
    with World() as w:
        m = utm_find(w, [a for a in args if not a.startswith("-")][0])
        if m["status"] not in ("stopped", "paused"):
            # Trap 5: an error, and exit 0.
            raise Refused("Operation not available.")
        if "--disposable" in args:
            if m.get("backend") == "Apple":
                raise Refused("Operation not supported by the backend.")
            m["disposable"] = True
        polls = m.get("start_polls", 0)
        m.update({"status": "starting", "polls": polls, "becomes": "started"} if polls else {"status": "started"})


def utm_stop(args):
    with World() as w:
        m = utm_find(w, [a for a in args if not a.startswith("-")][0])
        kinds = [a for a in args if a in ("--force", "--kill", "--request")]
        if len(kinds) > 1:
            complain("Error: You can only specify one of: --force, --kill, or --request")
            sys.exit(1)
        if m["status"] != "started" and kinds != ["--kill"]:
            raise Refused(NOT_RUNNING)
        if kinds == ["--request"] and m.get("ignores_request"):
            return
        m["status"] = "stopped"
        guest_goes_down(m["name"])
        m.pop("polls", None)


def utm_suspend(args):
    with World() as w:
        m = utm_find(w, args[0])
        if m["status"] != "started":
            raise Refused(NOT_RUNNING)
        m["status"] = "paused"


def utm_clone(args):
    with World() as w:
        m = utm_find(w, args[0])
        if m["status"] != "stopped":
            raise Refused("The virtual machine must be stopped before this operation can be performed.")
        import uuid
        name = option(args, "--name", default=m["name"] + " 2")
        # Trap 4: the same MAC. The new UUID is not printed.
        w["utm"]["machines"].append({**m, "uuid": str(uuid.uuid4()).upper(), "name": name, "status": "stopped"})


def utm_delete(args):
    with World() as w:
        m = utm_find(w, args[0])
        if m["status"] != "stopped":
            raise Refused("The virtual machine must be stopped before this operation can be performed.")
        w["utm"]["machines"].remove(m)
        shutil.rmtree(guest_folder(m["name"]), ignore_errors=True)


def utm_ip(args):
    with World() as w:
        m = utm_find(w, args[0])
        if m.get("backend") == "Apple" and not m.get("arp"):
            raise Refused("Operation not supported by the backend.")
        if m["status"] != "started":
            raise Refused(NOT_RUNNING)
        if m.get("ips_after", 0) > 0:
            m["ips_after"] -= 1
            return
        for ip in m.get("ips", []):
            say(ip + "\n")


def utm_exec(args):
    if "--cmd" not in args:
        complain("Error: Missing expected argument '--cmd <cmd> ...'\nHelp:  --cmd <cmd>\nUsage: utmctl exec ...\n  See 'utmctl exec --help' for more information.")
        sys.exit(64)
    at = args.index("--cmd")
    head, argv = args[:at], args[at + 1:]
    name = [a for a in head if not a.startswith("--")][0]
    with World() as w:
        m = utm_find(w, name)
        with_agent(m)
        cut = m.get("max_output")
        # Within the lock: whoever takes the machine down sees it.
        p = guest_process(m["name"], argv, subprocess.PIPE, subprocess.PIPE, subprocess.PIPE)
    stdin = sys.stdin.buffer.read() if "--input" in head else b""
    out, err = p.communicate(stdin)
    if cut is not None:
        out, err = out[:cut], err[:cut]
    # Only at the end, standard output first.
    sys.stdout.buffer.write(out)
    sys.stdout.flush()
    sys.stderr.buffer.write(err)
    sys.stderr.flush()
    # Trap 3: a process that dies of a signal has no code, and that counts as 0.
    sys.exit(p.returncode if p.returncode >= 0 else 0)


def utm_file(args):
    verb, name, path = args[0], args[1], args[2]
    with World() as w:
        m = utm_find(w, name)
        with_agent(m)
        cut = m.get("cut_files")
    path = os.path.join(guest_folder(m["name"]), path)
    if verb == "push":
        data = sys.stdin.buffer.read()
        with open(path, "wb") as f:
            f.write(data if cut is None else data[:cut])
    else:
        with open(path, "rb") as f:
            sys.stdout.buffer.write(f.read())


def utmctl():
    args = [a for a in ARGS]
    hide = False
    # `--hide` counts only before `--cmd`.
    stop = args.index("--cmd") if "--cmd" in args else len(args)
    if "--hide" in args[:stop]:
        args.remove("--hide")
        hide = True
    if not args:
        return say("OVERVIEW: CLI tool for controlling UTM virtual machines.\n")
    command, args = args[0], args[1:]
    known = {
        "list": utm_list, "status": utm_status, "start": utm_start, "stop": utm_stop, "suspend": utm_suspend, "clone": utm_clone,
        "delete": utm_delete, "ip-address": utm_ip, "exec": utm_exec, "file": utm_file, "version": lambda _: say("5.0.3\n"),
    }
    if command.startswith("-"):
        complain("Error: Unknown option '%s'\nUsage: utmctl <subcommand>\n  See 'utmctl --help' for more information." % command)
        sys.exit(64)
    if command not in known:
        complain("Error: Unexpected argument '%s'\nUsage: utmctl <subcommand>\n  See 'utmctl --help' for more information." % command)
        sys.exit(64)
    with World() as w:
        denied = w["utm"].get("denied") and not os.environ.get("GUI")
    if denied:
        # Without the right to automate: `list` shows the error and a header, every id is "not found".
        if hide or command == "list":
            event_error(-1743)
        if command == "list":
            return say("UUID                                 Status   Name\n")
        if command != "version":
            complain("Error: Virtual machine not found.")
            sys.exit(1)
    try:
        known[command](args)
    except Refused as why:
        event_error(-2700, str(why))


def open_():
    """`open -gj -a Terminal SCRIPT`: runs it in the graphical session, and does not wait."""
    script = ARGS[-1]
    subprocess.Popen(["/bin/sh", script], env={**os.environ, "GUI": "1"}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def arp():
    with World() as w:
        text = w.get("arp", "")
    say(text)


def poweroff():
    """In a guest: it goes down with everything in it."""
    guest = os.environ["STANDIN_GUEST"]
    with World() as w:
        if guest in w.get("multipass", {}).get("machines", {}):
            w["multipass"]["machines"][guest]["state"] = "Stopped"
        for m in w.get("utm", {}).get("machines", []):
            if m["name"] == guest:
                m["status"] = "stopped"
    os.killpg(os.getpgid(0), signal.SIGKILL)


def main():
    if ME == "multipassd":
        return multipassd()
    tools = {"multipass": multipass, "utmctl": utmctl, "open": open_, "arp": arp, "poweroff": poweroff}
    words = [a for a in ARGS if not a.startswith("-")]
    with open(os.path.join(HOME, "calls.jsonl"), "a") as f:
        f.write(json.dumps([ME] + ARGS) + "\n")
    rule = fault(words[0] if words else "")
    if rule:
        time.sleep(rule.get("delay", 0))
        if "exit" not in rule and "event" not in rule and "signal" not in rule and "stderr" not in rule:
            rule = None
    if rule and rule.get("effect", "none") == "none":
        carry_out(rule)
    try:
        tools[ME]()
    except SystemExit as end:
        if not rule:
            raise
    if rule:
        carry_out(rule)


signal.signal(signal.SIGPIPE, signal.SIG_DFL)
main()
