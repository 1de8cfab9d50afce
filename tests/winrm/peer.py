#!/usr/bin/env python3
"""A small WinRM (WS-Management) server for tests: what a Windows guest answers, run by /bin/sh.

Use
    make peer                       # its only dependency, pyspnego, in tests/winrm/venv
    WINRM_PEER_PASSWORD=secret tests/winrm/venv/bin/python tests/winrm/peer.py --user ci [--port 5985]

It prints one line, ``listening http://127.0.0.1:PORT/wsman``, once it accepts connections
(``--port 0`` takes a free port), and ends on SIGTERM or SIGINT.

It behaves as a stock Windows listener does (``winrm quickconfig``, AllowUnencrypted=false):
  * authentication: ``Negotiate`` with SPNEGO or raw NTLMv2 tokens, bound to the TCP connection,
    never asked for again on that connection. ``--basic`` offers Basic too.
  * message encryption: over HTTP an authenticated body must be ``multipart/encrypted`` (NTLM
    sealed), or the answer is an empty HTTP 500; an empty body is answered 200 (clients send one
    to log on). ``--allow-unencrypted`` lifts this. Over TLS plain bodies are accepted, and NTLM
    channel bindings are checked when the client sends them (``--cbt strict``: must be there).
  * shells: Create, Command, Receive, Send, Signal (ctrl_c, ctrl_break, terminate), Delete on
    ``windows/shell/cmd``; working directory, environment, stdin, code page and idle time-out
    options. A Receive with nothing to say by the OperationTimeout is the WSMan fault 2150858793
    on HTTP 500, sealed like any answer. Unknown shells, commands, resources, quotas: faults.
  * limits: ``--max-envelope-kb`` (500) and ``--max-shells`` (30), as on Windows.

A command line runs as ``/bin/sh -c "<command> <arguments>"`` in its own process group.
``powershell[.exe] ... -EncodedCommand X`` is decoded and its script given to ``--powershell``
(default: ``pwsh`` if installed, else ``/bin/sh``: then "PowerShell" text must be sh text).
PSRP (``.../powershell/Microsoft.PowerShell``) is not spoken: it is the invalid-resource fault.

Fault injection for a client's tests: ``--fail-after N`` drops the connection without an answer
at the N-th authenticated request; ``--expire-after N`` answers 401 to the N-th request of each
connection (as when Windows drops the logon); ``--delay S`` waits before every answer.
``--log FILE`` appends one JSON line per request (action, sealed or not, status; no bodies).
"""
import argparse
import base64
import hashlib
import json
import os
import re
import shutil
import signal
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import xml.etree.ElementTree as ET
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

import spnego
from spnego.channel_bindings import GssChannelBindings

S = "http://www.w3.org/2003/05/soap-envelope"
A = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
W = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
X = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
F = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault"
RSP = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
WSMID = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd"
CMD_URI = RSP + "/cmd"
SOAP_TYPE = "application/soap+xml;charset=UTF-8"
SEALED_TYPE = ('multipart/encrypted;protocol="application/HTTP-SPNEGO-session-encrypted";'
               'boundary="Encrypted Boundary"')
MARK = b"--Encrypted Boundary"
BUFFER_LIMIT = 1 << 20          # output held per stream; past it the command blocks, as on Windows


class Fault(Exception):
    """A WS-Management fault: WSMan error code, SOAP subcode, text."""

    def __init__(self, code, subcode, text, sender=True):
        super().__init__(text)
        self.code, self.subcode, self.text, self.sender = code, subcode, text, sender


def no_shell():
    return Fault(2150858843, "w:InvalidSelectors", "The request for the Windows Remote Shell with "
                 "ShellId failed because the shell was not found on the server.")


def timed_out():
    return Fault(2150858793, "w:TimedOut", "The WS-Management service cannot complete the operation "
                 "within the time specified in OperationTimeout.", sender=False)


class Command:
    """A running process, its unread output and the conditions on it."""

    def __init__(self, argv, shell):
        self.id = str(uuid.uuid4()).upper()
        self.lock = threading.Condition()
        self.out = {"stdout": bytearray(), "stderr": bytearray()}
        self.open = 2
        self.code = None
        self.proc = subprocess.Popen(
            argv, cwd=shell.cwd, env={**os.environ, **shell.env}, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name in self.out:
            threading.Thread(target=self._read, args=(name,), daemon=True).start()

    def _read(self, name):
        pipe = getattr(self.proc, name)
        while data := os.read(pipe.fileno(), 65536):
            with self.lock:
                self.lock.wait_for(lambda: len(self.out[name]) < BUFFER_LIMIT or self.code is not None)
                self.out[name] += data
                self.lock.notify_all()
        pipe.close()
        with self.lock:
            self.open -= 1
            last = self.open == 0
        if last:
            code = self.proc.wait()
            with self.lock:
                # a process ended by ctrl-C on Windows has the status STATUS_CONTROL_C_EXIT
                self.code = {-signal.SIGINT: 0xC000013A}.get(code, code & 0xFFFFFFFF)
                self.lock.notify_all()

    def receive(self, names, timeout, limit):
        """Wait for output or the end; return ([(stream, bytes)], exit code or None)."""
        def ready():
            return self.code is not None or any(self.out[n] for n in names)
        with self.lock:
            if not self.lock.wait_for(ready, timeout):
                raise timed_out()
            chunks = []
            for name in names:
                if limit > 0 and self.out[name]:
                    chunks.append((name, bytes(self.out[name][:limit])))
                    del self.out[name][:limit]
                    limit -= len(chunks[-1][1])
            self.lock.notify_all()
            done = self.code is not None and not any(self.out[n] for n in names)
            return chunks, self.code if done else None

    def send(self, data, end):
        try:
            if data:
                self.proc.stdin.write(data)
                self.proc.stdin.flush()
            if end:
                self.proc.stdin.close()
        except (BrokenPipeError, ValueError):
            raise Fault(2150859064, "w:InternalError", "The pipe is being closed.", sender=False)

    def kill(self, sig):
        try:
            os.killpg(self.proc.pid, sig)
        except ProcessLookupError:
            pass


class Shell:
    def __init__(self, body, opts):
        self.id = str(uuid.uuid4()).upper()
        self.cwd = text(body, "WorkingDirectory") or None
        if self.cwd and not os.path.isdir(self.cwd):
            raise Fault(2147942667, "w:InternalError", "The directory name is invalid.", sender=False)
        self.env = {v.get("Name"): v.text or "" for v in body.iter(f"{{{RSP}}}Variable")}
        self.commands = {}
        self.opts = opts

    def run(self, line, arguments):
        line = " ".join([line, *arguments])
        argv = ["/bin/sh", "-c", line]
        m = re.match(r'"?[^\s"]*\b(?:powershell|pwsh)(?:\.exe)?"?\s.*?-e(?:nc|ncodedcommand)?\s+"?([A-Za-z0-9+/=]+)', line, re.I)
        if m:
            argv = [*self.opts.powershell.split(), base64.b64decode(m[1]).decode("utf-16-le")]
        command = Command(argv, self)
        self.commands[command.id] = command
        return command

    def close(self):
        for command in self.commands.values():
            command.kill(signal.SIGKILL)


def text(node, name):
    found = node.find(f".//{{{RSP}}}{name}")
    return "" if found is None or found.text is None else found.text


class Peer:
    """The state of the service: its shells, and what the SOAP actions do to them."""

    def __init__(self, opts):
        self.opts, self.shells, self.lock = opts, {}, threading.Lock()

    def answer(self, xml):
        """A SOAP request's (action, response XML, HTTP status)."""
        root = ET.fromstring(xml)
        if root.find(f".//{{{WSMID}}}Identify") is not None:
            return "Identify", (
                f'<s:Envelope xmlns:s="{S}"><s:Header/><s:Body><wsmid:IdentifyResponse xmlns:wsmid="{WSMID}">'
                f"<wsmid:ProtocolVersion>{W}</wsmid:ProtocolVersion><wsmid:ProductVendor>Microsoft Corporation"
                "</wsmid:ProductVendor><wsmid:ProductVersion>OS: 0.0.0 SP: 0.0 Stack: 3.0</wsmid:ProductVersion>"
                "</wsmid:IdentifyResponse></s:Body></s:Envelope>"), 200
        action = root.findtext(f".//{{{A}}}Action", "").strip()
        message = root.findtext(f".//{{{A}}}MessageID", "").strip()
        try:
            body, reply, status = self.act(action, root), action + "Response", 200
        except Fault as f:
            body, reply, status = (
                f'<s:Fault><s:Code><s:Value>s:{"Sender" if f.sender else "Receiver"}</s:Value><s:Subcode>'
                f"<s:Value>{f.subcode}</s:Value></s:Subcode></s:Code><s:Reason><s:Text xml:lang=\"en-US\">"
                f'{escape(f.text)} </s:Text></s:Reason><s:Detail><f:WSManFault xmlns:f="{F}" Code="{f.code}" '
                f'Machine="127.0.0.1"><f:Message>{escape(f.text)} </f:Message></f:WSManFault></s:Detail></s:Fault>'
            ), "http://schemas.dmtf.org/wbem/wsman/1/wsman/fault", 500
        return action.rsplit("/", 1)[-1], (
            f'<s:Envelope xml:lang="en-US" xmlns:s="{S}" xmlns:a="{A}" xmlns:x="{X}" xmlns:w="{W}" xmlns:rsp="{RSP}" '
            'xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd"><s:Header>'
            f"<a:Action>{escape(reply)}</a:Action><a:MessageID>uuid:{str(uuid.uuid4()).upper()}</a:MessageID>"
            "<a:To>http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:To>"
            f"<a:RelatesTo>{escape(message)}</a:RelatesTo></s:Header><s:Body>{body}</s:Body></s:Envelope>"), status

    def act(self, action, root):
        head, body = root.find(f"{{{S}}}Header"), root.find(f"{{{S}}}Body")
        resource = head.findtext(f"{{{W}}}ResourceURI", "").strip()
        if resource != CMD_URI:
            raise Fault(2150858752, "w:InvalidResourceURI", "The WS-Management service cannot process the request. "
                        "The resource URI is missing or it has an incorrect format.")
        selector = {s.get("Name"): (s.text or "").strip() for s in head.iter(f"{{{W}}}Selector")}
        if action == X + "/Create":
            with self.lock:
                if len(self.shells) >= self.opts.max_shells:
                    raise Fault(2150859173, "w:QuotaLimit", "The maximum number of concurrent shells for this "
                                "user has been exceeded.")
                shell = Shell(body, self.opts)
                self.shells[shell.id] = shell
            return (f'<x:ResourceCreated><a:Address>{escape(head.findtext(f"{{{A}}}To", "").strip())}</a:Address>'
                    f"<a:ReferenceParameters><w:ResourceURI>{CMD_URI}</w:ResourceURI><w:SelectorSet>"
                    f'<w:Selector Name="ShellId">{shell.id}</w:Selector></w:SelectorSet></a:ReferenceParameters>'
                    f"</x:ResourceCreated><rsp:Shell><rsp:ShellId>{shell.id}</rsp:ShellId>"
                    f"<rsp:ResourceUri>{CMD_URI}</rsp:ResourceUri><rsp:InputStreams>stdin</rsp:InputStreams>"
                    "<rsp:OutputStreams>stdout stderr</rsp:OutputStreams></rsp:Shell>")
        shell = self.shells.get(selector.get("ShellId", "").upper())
        if shell is None:
            raise no_shell()
        if action == X + "/Delete":
            with self.lock:
                self.shells.pop(shell.id, None)
            shell.close()
            return ""
        if action == RSP + "/Command":
            line = body.find(f"{{{RSP}}}CommandLine")
            command = shell.run(text(line, "Command"),
                                [a.text or "" for a in line.iter(f"{{{RSP}}}Arguments")])
            return f"<rsp:CommandResponse><rsp:CommandId>{command.id}</rsp:CommandId></rsp:CommandResponse>"
        part = body.find("*")
        node = next((n for n in part.iter() if n.get("CommandId")), part)
        command = shell.commands.get(node.get("CommandId", "").upper())
        if command is None:
            raise Fault(2150858843, "w:InvalidSelectors", "The command was not found.")
        if action == RSP + "/Receive":
            names = [n for n in (node.text or "stdout stderr").split() if n in command.out]
            m = re.fullmatch(r"PT(?:(\d+)M)?(?:([\d.]+)S)?", head.findtext(f"{{{W}}}OperationTimeout", "PT60S").strip())
            timeout = float(m[1] or 0) * 60 + float(m[2] or 0) if m else 60.0
            size = int(head.findtext(f"{{{W}}}MaxEnvelopeSize", "153600").strip())
            # base64 grows by 4/3, the envelope and the sealing take the rest
            chunks, code = command.receive(names, timeout, max(1024, (size - 4096) * 3 // 4 - 64))
            out = "".join(f'<rsp:Stream Name="{n}" CommandId="{command.id}">{base64.b64encode(d).decode()}</rsp:Stream>'
                          for n, d in chunks)
            state = "Running"
            if code is not None:
                out += "".join(f'<rsp:Stream Name="{n}" CommandId="{command.id}" End="true"></rsp:Stream>' for n in names)
                state = "Done"
            tail = f"<rsp:ExitCode>{code}</rsp:ExitCode>" if code is not None else ""
            return (f'<rsp:ReceiveResponse>{out}<rsp:CommandState CommandId="{command.id}" '
                    f'State="{RSP}/CommandState/{state}">{tail}</rsp:CommandState></rsp:ReceiveResponse>')
        if action == RSP + "/Send":
            for stream in part.iter(f"{{{RSP}}}Stream"):
                command.send(base64.b64decode(stream.text or ""), stream.get("End", "").lower() in ("true", "1"))
            return "<rsp:SendResponse/>"
        if action == RSP + "/Signal":
            code = text(body, "Code").strip().rsplit("/", 1)[-1].lower()
            if code == "terminate":
                command.kill(signal.SIGKILL)
                shell.commands.pop(command.id, None)
            elif code in ("ctrl_c", "ctrl_break"):
                command.kill(signal.SIGINT if code == "ctrl_c" else signal.SIGQUIT)
            else:
                raise Fault(87, "w:InvalidParameter", "The parameter is incorrect.")
            return "<rsp:SignalResponse/>"
        raise Fault(2150858754, "a:ActionNotSupported", "The action is not supported by the service.")


class Handler(BaseHTTPRequestHandler):
    """One TCP connection: its authentication state, its sealing keys, its requests in turn."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1               # one write per answer
    server_version, sys_version = "Microsoft-HTTPAPI/2.0", ""

    def setup(self):
        super().setup()
        self.context, self.user, self.seen = None, None, 0

    def log_message(self, *_):
        pass

    def reply(self, status, body=b"", kind=None, headers=()):
        time.sleep(self.server.opts.delay)
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def deny(self, token=None):
        """401: the schemes on offer, or the next token of a logon under way."""
        offers = [f"Negotiate {base64.b64encode(token).decode()}"] if token else ["Negotiate"]
        if not token and self.server.opts.basic:
            offers.append('Basic realm="WSMAN"')
        self.reply(401, headers=[("WWW-Authenticate", o) for o in offers])

    def authenticate(self):
        """True once this connection has a user; else the answer has been sent. Headers to add."""
        opts = self.server.opts
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        if not scheme:
            if self.user:
                return True, []
            self.deny()
            return False, []
        try:
            token = base64.b64decode(value, validate=True)
            if scheme.lower() == "basic" and opts.basic:
                if token.decode() != f"{opts.user}:{opts.password}":
                    raise ValueError("bad password")
                if not (self.server.tls or opts.allow_unencrypted):
                    raise ValueError("Basic over plain HTTP")
                self.user = opts.user
                return True, []
            if scheme.lower() != "negotiate":
                raise ValueError("unknown scheme")
            if self.context is None or self.context.complete:
                self.user = None
                bindings = None
                if self.server.tls and opts.cbt == "strict":
                    bindings = GssChannelBindings(application_data=b"tls-server-end-point:" + self.server.cert_hash)
                self.context = spnego.server(protocol="negotiate", channel_bindings=bindings,
                                             options=spnego.NegotiateOptions.use_negotiate)
            out = self.context.step(token)
            if not self.context.complete:
                self.deny(out)
                return False, []
            self.user = self.context.client_principal
            return True, [("WWW-Authenticate", f"Negotiate {base64.b64encode(out).decode()}")] if out else []
        except Exception:           # any broken or wrong token is a refusal
            self.context, self.user = None, None
            self.deny()
            return False, []

    def unseal(self, body):
        """The SOAP text of a multipart/encrypted body. Windows is strict on its form: the closing
        boundary follows the sealed bytes at once (a CRLF between them is HTTP 400)."""
        parts = body.split(MARK + b"\r\n", 2)
        length = int(re.search(rb"Length=(\d+)", parts[1])[1])
        data = parts[2].split(b"\r\n", 1)[1]
        if not data.endswith(MARK + b"--\r\n"):
            raise ValueError("no closing boundary")
        data = data[:-len(MARK) - 4]
        size = struct.unpack("<I", data[:4])[0]
        if len(data) != 4 + size + length:
            raise ValueError("sealed length is not the announced length")
        return self.context.unwrap_winrm(data[4:4 + size], data[4 + size:])

    def seal(self, plain):
        header, data, padding = self.context.wrap_winrm(plain)
        return b"".join([
            MARK, b"\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n"
            b"\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=", str(len(plain) + padding).encode(),
            b"\r\n", MARK, b"\r\n\tContent-Type: application/octet-stream\r\n",
            struct.pack("<I", len(header)), header, data, MARK, b"--\r\n"])

    def do_POST(self):
        opts = self.server.opts
        record = {"time": round(time.time(), 3), "port": self.client_address[1], "user": self.user}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.split("?")[0].rstrip("/") != "/wsman":
            return self.reply(404)
        if self.headers.get("WSMANIDENTIFY", "").lower() == "unauthenticated":
            return self.reply(200, self.server.peer.answer(body)[1].encode(), SOAP_TYPE)
        ok, headers = self.authenticate()
        if not ok:
            return self.note(record, "logon", 401)
        record["user"] = self.user
        self.seen += 1
        self.server.count += 1
        if opts.expire_after and self.seen == opts.expire_after:
            self.context, self.user = None, None
            self.note(record, "expired", 401)
            return self.deny()
        if opts.fail_after and self.server.count == opts.fail_after:
            self.note(record, "dropped", 0)
            self.close_connection = True
            return None
        if not body:
            self.note(record, "logon", 200)
            return self.reply(200, headers=headers)
        kind = self.headers.get("Content-Type", "")
        sealed = kind.startswith("multipart/encrypted")
        record["sealed"], record["size"] = sealed, len(body)
        if not sealed and not (self.server.tls or opts.allow_unencrypted):
            self.note(record, "unencrypted", 500)
            return self.reply(500, headers=headers)
        if sealed and "HTTP-SPNEGO-session-encrypted" not in kind:
            self.note(record, "unknown encryption", 415)
            return self.reply(415, headers=headers)
        if len(body) > opts.max_envelope_kb * 1024:
            self.note(record, "too large", 413)
            return self.reply(413, headers=headers)
        try:
            action, xml, status = self.server.peer.answer(self.unseal(body) if sealed else body)
        except Exception as e:      # not sealed with this connection's key, or not SOAP
            self.note(record, f"bad request: {e!r}", 400)
            return self.reply(400, headers=headers)
        self.note(record, action, status)
        answer = xml.encode()
        if sealed:
            return self.reply(status, self.seal(answer), SEALED_TYPE, headers)
        return self.reply(status, answer, SOAP_TYPE, headers)

    def note(self, record, action, status):
        record.update(action=action, status=status)
        if self.server.opts.log:
            with self.server.peer.lock, open(self.server.opts.log, "a") as f:
                f.write(json.dumps(record) + "\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, opts):
        super().__init__((opts.host, opts.port), Handler)
        self.opts, self.peer, self.count = opts, Peer(opts), 0
        self.tls = bool(opts.tls_cert)
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(opts.tls_cert, opts.tls_key)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
            pem = re.search(r"-----BEGIN CERT.*?END CERTIFICATE-----", open(opts.tls_cert).read(), re.S)[0]
            self.cert_hash = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], (ConnectionError, ssl.SSLError)):
            super().handle_error(request, client_address)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, default=5985)
    p.add_argument("--user", required=True, help="USER or DOMAIN\\USER; the password: env WINRM_PEER_PASSWORD")
    p.add_argument("--basic", action="store_true")
    p.add_argument("--allow-unencrypted", action="store_true")
    p.add_argument("--tls-cert")
    p.add_argument("--tls-key")
    p.add_argument("--cbt", choices=["relaxed", "strict"], default="relaxed")
    p.add_argument("--powershell", default="pwsh -NoProfile -NonInteractive -Command" if shutil.which("pwsh") else "/bin/sh -c")
    p.add_argument("--max-envelope-kb", type=int, default=500)
    p.add_argument("--max-shells", type=int, default=30)
    p.add_argument("--fail-after", type=int, default=0)
    p.add_argument("--expire-after", type=int, default=0)
    p.add_argument("--delay", type=float, default=0)
    p.add_argument("--log")
    opts = p.parse_args()
    opts.password = os.environ.pop("WINRM_PEER_PASSWORD", None) or p.error("set WINRM_PEER_PASSWORD")
    domain, _, name = opts.user.rpartition("\\")
    with tempfile.NamedTemporaryFile("w", prefix="winrm-peer-") as users:      # mode 0600
        # a local account answers under any of these names, as on Windows
        for d in {domain, "", ".", "LOCALHOST"}:
            users.write(f"{d}:{name}:{opts.password}\n")
        users.flush()
        os.environ["NTLM_USER_FILE"] = users.name
        server = Server(opts)
        for s in (signal.SIGTERM, signal.SIGINT):
            signal.signal(s, lambda *_: threading.Thread(target=server.shutdown).start())
        print(f"listening {'https' if server.tls else 'http'}://{opts.host}:{server.server_port}/wsman", flush=True)
        try:
            server.serve_forever()
        finally:
            for shell in list(server.peer.shells.values()):
                shell.close()


if __name__ == "__main__":
    main()
