#!/usr/bin/env python3
"""A stand-in for PowerShell: knows the texts that vmdeck sends, and does in its own way what they say.

There is no PowerShell where these tests run. This program reads what comes as PowerShell would (an encoded command, or a text; then lines of
base64 on standard input), takes the parts out of vmdeck's own texts, and runs the user's script by /bin/sh. So everything around the
language is tested for real: quoting, input, marks, statuses, files, and how a command is ended. What the texts mean to a real PowerShell is
not.

    powershell.exe ... -EncodedCommand BASE64        behind sshd
    powershell.py TEXT                               behind peer.py (`--powershell`)

STANDIN_STATE=FOLDER: its ProgramData, and what it remembers of its boot. STANDIN_NOT_ELEVATED=1: the user is no administrator. STANDIN_CLIXML=1: its own errors are XML, as Windows PowerShell writes them.
"""
import base64
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time


def fail(text, code):
    if os.environ.get("STANDIN_CLIXML"):
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        text = ('#< CLIXML\r\n<Objs Version="1.1.0.1" xmlns="http://schemas.microsoft.com/powershell/2004/04"><Obj S="progress" RefId="0">'
                f'<MS><AV>Preparing modules</AV></MS></Obj><S S="Error">{escaped}_x000D__x000A_</S></Objs>')
    sys.stderr.write(text)
    sys.stderr.flush()
    sys.exit(code)


def unquote(text):
    """PowerShell takes the typographic quotes for quotes as well."""
    return re.sub("(['\u2018\u2019\u201a\u201b])\\1", r"\1", text)


def text_of(pattern, body):
    found = re.search(pattern, body, re.S)
    return unquote(found[1]) if found else None


def decoded(body):
    """The script in one of vmdeck's texts."""
    return base64.b64decode(re.search(r"\[Convert\]::FromBase64String\('([A-Za-z0-9+/=]*)'\)", body)[1]).decode()


def below(pid):
    """The pids of a process and of everything that it started."""
    table = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stat:
                table[int(name)] = int(stat.read().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            pass
    found = {pid}
    while more := {child for child, parent in table.items() if parent in found and child not in found}:
        found |= more
    return [p for p in found if p in table and p not in (os.getpid(), os.getppid())]


def end(pid):
    for _ in range(40):
        left = [p for p in below(pid) if state(p) not in ("Z", None)]
        if not left:
            sys.exit(0)
        for p in left:
            try:
                os.kill(p, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)
    print(*left, end="")
    sys.exit(3)


def state(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return None


def pack(script):
    """Writes an archive of what the walks name, as the script would."""
    out = tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.GNU_FORMAT)
    for root, pattern in re.findall(r"\$walks\.Add\(@\('((?:[^']|'')*)','((?:[^']|'')*)'\)\)", script):
        root, pattern = unquote(root), unquote(pattern)
        if os.path.isfile(root):
            out.add(root, root)
            continue
        for folder, _, names in os.walk(root or "."):
            for name in sorted(names):
                path = os.path.join(folder, name)
                rest = os.path.relpath(path, root or ".")
                if re.search(pattern, rest, re.I):
                    out.add(path, f"{root}/{rest}" if root else rest)
    out.close()
    sys.exit(0)


def make_helper(script):
    """Writes what restarts the guest: here it ends the connection, and the next boot is another one."""
    state = os.environ["STANDIN_STATE"]
    folder = os.path.join(state, text_of(r"\$env:ProgramData,'((?:[^']|'')*)'", script))
    os.makedirs(folder, exist_ok=True)
    assert "Restart-Computer -Force" in script and "vmdeck: restart, mark: " in script
    with open(folder + "\\reboot.ps1", "w") as helper:
        helper.write(f"""#!/bin/sh
echo "vmdeck: restart, mark: $1" >&2
sleep 0.2
echo restart >> {state}/boot
p=$$
while [ "$p" -gt 1 ]; do
  p=$(cut -d' ' -f4 /proc/$p/stat)
  case $(cat /proc/$p/comm) in sshd*) kill -9 "$p"; break ;; esac
done
sleep 60
""")
    os.chmod(folder + "\\reboot.ps1", 0o755)
    print(folder, end="")
    sys.exit(0)


def run(nonce, body, received, given):
    sys.stdout.write(f"[out-{nonce}]")
    sys.stdout.flush()
    sys.stderr.write(f"[run-{nonce} {os.getpid()}]")
    sys.stderr.flush()
    if "[Management.Automation.Language.Parser]::ParseInput" not in body:
        if "$env:ComSpec" in body:                           # shell = "cmd"
            lines = decoded(body).replace("\r\n", "\n").replace("@echo off\n", "")
            sys.exit(subprocess.run(["/bin/sh", "-c", lines.replace("exit /b", "exit")]).returncode)
        program = text_of(r"Get-Command '((?:[^']|'')*)'", body)
        words = re.search(r"& \$c\.Source (.*)\nexit", body, re.S)[1]
        arguments = [unquote(w).replace('\\"', '"') for w in re.findall(r"'((?:[^']|'')*)'", words)]
        sys.exit(subprocess.run([program, *arguments]).returncode)
    script = decoded(body)
    if kill := re.search(r"\$ids\.Add\((\d+)\)", script):
        end(int(kill[1]))
    if "LastBootUpTime" in script:
        with open(os.path.join(os.environ["STANDIN_STATE"], "boot"), "a+") as boot:
            boot.seek(0)
            print(f"1337{boot.read().count('restart')}")
        sys.exit(0)
    if "'reboot.ps1'" in script:
        make_helper(script)
    if "Add-Header" in script:
        pack(script)
    if "tar.exe -xf" in script:
        to = text_of(r"\$to='((?:[^']|'')*)'", script)
        shutil.rmtree(to, ignore_errors=True)
        os.makedirs(to)
        with tarfile.open(received) as archive:
            archive.extractall(to, filter="fully_trusted")
        os.unlink(received)
        sys.exit(0)
    if "& $f" in script or "/c $f" in script or "-FilePath $f" in script:
        code = subprocess.run(["/bin/sh", received]).returncode
        os.unlink(received)
        sys.exit(code)
    strict = ["-e"] if "-ge 0;" in body else []
    done = subprocess.run(["/bin/sh", *strict, "-c", script], input=given or None,
                          stdin=None if given else subprocess.DEVNULL)
    sys.exit(done.returncode if done.returncode >= 0 else 1)


def main():
    arguments = sys.argv[1:]
    if "-EncodedCommand" in arguments:
        text = base64.b64decode(arguments[arguments.index("-EncodedCommand") + 1]).decode("utf-16-le")
    else:
        text = arguments[-1]
    if probe := re.fullmatch(r'echo "\[shell-(\w+) \$PSHOME\]"\nexit (\d+)', text):
        sys.stdin.read()
        print(f"[shell-{probe[1]} C:\\Windows\\System32\\WindowsPowerShell\\v1.0]")
        sys.exit(int(probe[2]))
    nonce = re.search(r"\$n='(\w+)'", text)[1]
    first = sys.stdin.buffer.readline()
    if not first:
        sys.exit(124)
    body = base64.b64decode(first).decode()
    for name, value in re.findall(r"\[Environment\]::SetEnvironmentVariable\('((?:[^']|'')*)','((?:[^']|'')*)'\)", body):
        os.environ[unquote(name)] = unquote(value)
    if (folder := text_of(r"Set-Location -LiteralPath '((?:[^']|'')*)'", body)) is not None:
        try:
            os.chdir(folder)
        except OSError:
            fail(f"Cannot find path '{folder}' because it does not exist.", 125)
    if "WindowsBuiltInRole" in body and os.environ.get("STANDIN_NOT_ELEVATED"):
        fail("the session has no rights of an administrator", 124)
    received, given = None, b""
    if "[IO.File]::Create(" in body:
        handle, received = tempfile.mkstemp(prefix="powershell-")
        into = os.fdopen(handle, "wb")
    else:
        into = io.BytesIO()
    has_all = False
    for line in sys.stdin.buffer:
        if line.strip() == f"go-{nonce}".encode():
            has_all = True
            break
        into.write(base64.b64decode(line))
    if not has_all:
        sys.exit(124)
    if received:
        into.close()
    else:
        given = into.getvalue()
    run(nonce, body, received, given)


main()
