# Gives a machine that goes on from a snapshot the time of its host and random numbers of its own.
#
# Reads blocks of 48 bytes: how far the clock is to go, as seconds and nanoseconds (64 bits each, little-endian; both 0 = it stays), and
# 32 random bytes, which the kernel takes as entropy and begins its random numbers anew with. For each it writes one line of hexadecimal
# digits: the time then, as seconds and nanoseconds in the same form, and 16 random bytes. Negative nanoseconds end it with 0. It needs
# root, and exits with 1 where anything fails.
#
# Linux (include/uapi/linux/random.h, clock_settime(2)). A program of its own, since shells can do neither in a part of a second.
        .globl  _start
        .text
_start: sub     $256, %rsp
block:  xor     %ebx, %ebx
read:   xor     %eax, %eax              # read(0, rsp + rbx, 48 - rbx)
        xor     %edi, %edi
        lea     (%rsp,%rbx), %rsi
        mov     $48, %edx
        sub     %ebx, %edx
        syscall
        test    %rax, %rax
        jle     fail
        add     %eax, %ebx
        cmp     $48, %ebx
        jb      read

        mov     (%rsp), %rax
        cmpq    $0, 8(%rsp)
        jl      done
        or      8(%rsp), %rax
        jz      mix
        mov     $228, %eax              # clock_gettime(CLOCK_REALTIME, rsp + 64)
        xor     %edi, %edi
        lea     64(%rsp), %rsi
        syscall
        mov     64(%rsp), %rax
        add     (%rsp), %rax
        mov     72(%rsp), %rcx
        add     8(%rsp), %rcx
        cmp     $1000000000, %rcx
        jb      set
        sub     $1000000000, %rcx
        inc     %rax
set:    mov     %rax, 64(%rsp)
        mov     %rcx, 72(%rsp)
        mov     $227, %eax              # clock_settime(CLOCK_REALTIME, rsp + 64)
        xor     %edi, %edi
        lea     64(%rsp), %rsi
        syscall
        test    %rax, %rax
        js      fail

mix:    mov     $2, %eax                # open("/dev/urandom", O_RDWR)
        lea     device(%rip), %rdi
        mov     $2, %esi
        xor     %edx, %edx
        syscall
        test    %rax, %rax
        js      fail
        mov     %rax, %rbp
        movl    $256, 8(%rsp)           # struct rand_pool_info: bits, bytes, and the bytes, which are there already
        movl    $32, 12(%rsp)
        mov     $16, %eax               # ioctl(rbp, RNDADDENTROPY, rsp + 8)
        mov     %rbp, %rdi
        mov     $0x40085203, %esi
        lea     8(%rsp), %rdx
        syscall
        test    %rax, %rax
        js      fail
        mov     $16, %eax               # ioctl(rbp, RNDRESEEDCRNG)
        mov     %rbp, %rdi
        mov     $0x5207, %esi
        xor     %edx, %edx
        syscall
        test    %rax, %rax
        js      fail

        mov     $318, %eax              # getrandom(rsp + 80, 16, 0)
        lea     80(%rsp), %rdi
        mov     $16, %esi
        xor     %edx, %edx
        syscall
        mov     $228, %eax              # clock_gettime(CLOCK_REALTIME, rsp + 64)
        xor     %edi, %edi
        lea     64(%rsp), %rsi
        syscall
        lea     digits(%rip), %rsi
        xor     %ecx, %ecx
hex:    movzbl  64(%rsp,%rcx), %eax
        mov     %eax, %edx
        shr     $4, %eax
        and     $15, %edx
        mov     (%rsi,%rax), %al
        mov     (%rsi,%rdx), %dl
        mov     %al, 128(%rsp,%rcx,2)
        mov     %dl, 129(%rsp,%rcx,2)
        inc     %ecx
        cmp     $32, %ecx
        jb      hex
        movb    $10, 192(%rsp)
        mov     $1, %eax                # write(1, rsp + 128, 65)
        mov     $1, %edi
        lea     128(%rsp), %rsi
        mov     $65, %edx
        syscall
        mov     $3, %eax                # close(rbp)
        mov     %rbp, %rdi
        syscall
        jmp     block
done:   xor     %edi, %edi
exit:   mov     $60, %eax
        syscall
fail:   mov     $1, %edi
        jmp     exit

device: .asciz  "/dev/urandom"
digits: .ascii  "0123456789abcdef"
