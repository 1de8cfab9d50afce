/* kexec KERNEL INITRD COMMAND_LINE - boots another kernel within the machine, at once; for tests of what follows such a boot. */
#include <fcntl.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  int kernel = open(argv[1], O_RDONLY), initrd = open(argv[2], O_RDONLY);
  if (kernel < 0 || initrd < 0) { perror("open"); return 1; }
  if (syscall(SYS_kexec_file_load, kernel, initrd, strlen(argv[3]) + 1, argv[3], 0UL)) { perror("kexec_file_load"); return 1; }
  sync();
  syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, 0);
  perror("reboot");
  return 1;
}
