#!/bin/bash
here="$(cd "$(dirname "$0")" && pwd)"
source "$here/../guest-test/test_params.py"
cd "$here" || exit 1
source ../.env
source "$SCRIPT_DIR/guest.test_executor.sh"
cd "$here" || exit 1
finish() { [ "$GCOV" = off ] && guest_test_close; return 0; }
one() { guest_test_prepare "$1"; guest_test_entry "$1" "$2" || die "$TESTCASE: $1 $2"; finish; }
case "$TESTCASE" in
  BOOT)     one boot.sh "-v $VCPU -s $SOCKETS -m $MEM" ;;   # lscpu and /proc/meminfo agree with the flags
  COPY)     # folders go there and come back
            guest_test_prepare sent.sh; to_guest -r hello; guest_test_entry sent.sh || die "$TESTCASE"
            to_guest fetch.sh; guest_test_entry fetch.sh || die "$TESTCASE"
            sshpass -e scp -r -P "$PORT" root@localhost:"$REMOTE/out" got || die "fetch a folder"
            sshpass -e scp -P "$PORT" "root@localhost:$REMOTE/out/*.log" . || die "fetch by a pattern"
            cat got/a.log "b c.log" got/deep/d; [ ! -L got/link ] || die "a link came"
            sshpass -e ssh -p "$PORT" root@localhost "echo it is \$(whoami); exit 7"; echo "status $?"; finish ;;
  AFTER)    one boot.sh; guest_test_entry exit.sh 3 || die "$TESTCASE: after the close" ;;
  NOTHING)  finish ;;                                       # only closes: never a pass
  BACKGROUND) # what still runs when the guest is closed is no loss
            guest_test_prepare boot.sh; sshpass -e ssh -n -p "$PORT" root@localhost "sleep 60" &
            guest_test_entry boot.sh "-v $VCPU" || die "$TESTCASE"; finish ;;
  MISSING)  guest_test_prepare boot.sh; sshpass -e scp -P "$PORT" root@localhost:/root/none . && die "it came"
            [ ! -e none ] || die "a file that did not come is there"; finish ;;
  REBOOTS)  one reboots.sh ;;                               # nobody asked for it: never a pass
  HELPER_"$VCPU"C)
            helper_of_the_tools && one boot.sh || die "no helper" ;;
  FAIL)     one exit.sh 3 ;;                                # must be red
  BLOCK)    one exit.sh 2 ;;                                # block_test
  NA)       one exit.sh 32 ;;                               # na_test: skipped, not failed
  OWN255)   one exit.sh 255 ;;
  SSHLOST)  one kill-sshd.sh ;;                             # connection lost: never a pass
  MSR)      one read-bad-msr.sh ;;                          # test passes, console error 1: must be red
  WARN)     one warn.sh ;;                                  # kernel WARNING: passes with a warning
  CRASH)    one crash.sh ;;
  SLOW)     one slow.sh ;;
  KEXEC|TD_KEXEC_NO_MEM_DRAIN_*) # begins again while boots are left; the last one is judged
            [ "$KEXEC_CNT" -gt 0 ] || { one boot.sh "-v $VCPU"; exit; }
            guest_test_prepare boot.sh; to_guest vmlinuz initrd.cpio
            sshpass -e ssh -p "$PORT" root@localhost "cd $REMOTE && kexec vmlinuz initrd.cpio \"\$(cat /proc/cmdline)\"" ;;
  KEPT)     guest_test_prepare exit.sh; guest_test_entry exit.sh 0 || die "$TESTCASE" ;;  # forgets to close
esac
