#!/usr/bin/env python3
"""What benches/winrm.rs is compared with: the same work by pypsrp, a client that is much used.

    pypsrp_bench.py PORT USER commands N       prints the median time of a trivial command in an open shell, in microseconds
    pypsrp_bench.py PORT USER up FILE TO       sends a file to a command's input; prints the whole time
    pypsrp_bench.py PORT USER down FILE TO     takes a file from a command's output; prints the whole time

The password comes in WINRM_PEER_PASSWORD.
"""
import os
import statistics
import sys
import time

from pypsrp.shell import Process, SignalCode, WinRS
from pypsrp.wsman import WSMan


def main():
    port, user, what, *rest = sys.argv[1:]
    wsman = WSMan("127.0.0.1", port=int(port), ssl=False, auth="ntlm", username=user,
                  password=os.environ["WINRM_PEER_PASSWORD"])
    with WinRS(wsman) as shell:
        if what == "commands":
            times = []
            for _ in range(int(rest[0])):
                start = time.perf_counter()
                process = Process(shell, "true")
                process.invoke()
                assert process.rc == 0
                times.append(time.perf_counter() - start)
            print(int(statistics.median(times) * 1e6))
            return
        start = time.perf_counter()
        source, to = rest
        if what == "up":
            process = Process(shell, f"cat > {to}")
            process.begin_invoke()
            with open(source, "rb") as data:
                piece = data.read(256 * 1024)
                while piece:
                    after = data.read(256 * 1024)
                    process.send(piece, end=not after)
                    piece = after
            process.end_invoke()
        else:
            process = Process(shell, f"cat {source}")
            process.invoke()
            with open(to, "wb") as out:
                out.write(process.stdout)
        process.signal(SignalCode.TERMINATE)
        assert process.rc == 0
        print(int((time.perf_counter() - start) * 1e6))


main()
