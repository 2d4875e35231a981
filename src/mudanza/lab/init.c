/* The first program of a lab guest: file systems, modules and its network, then busybox's init.
 *
 * In one program, for an emulated CPU takes long to begin another one for each of them.
 */

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void mounted(const char *type, const char *directory)
{
	if (mount(type, directory, type, 0, NULL))
		perror(directory);
}

static int is_module(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void load(const char *name)
{
	char path[512];
	int file;

	snprintf(path, sizeof path, "/modules/%s", name);
	file = open(path, O_RDONLY | O_CLOEXEC);
	/* One for hardware that is not there says so, and is no fault. */
	if (file < 0 || syscall(SYS_finit_module, file, "", 0))
		perror(path);
	close(file);
}

static void write_file(const char *path, const char *text)
{
	int file = open(path, O_WRONLY | O_CLOEXEC);

	if (file < 0 || write(file, text, strlen(text)) < 0)
		perror(path);
	close(file);
}

static void set(int any, unsigned long what, struct ifreq *request)
{
	if (ioctl(any, what, request))
		perror(request->ifr_name);
}

static void set_address(int any, unsigned long what, struct ifreq *request, in_addr_t address)
{
	struct sockaddr_in *place = (struct sockaddr_in *)&request->ifr_addr;

	memset(place, 0, sizeof *place);
	place->sin_family = AF_INET;
	place->sin_addr.s_addr = address;
	set(any, what, request);
}

static void set_up(int any, struct ifreq *request)
{
	set(any, SIOCGIFFLAGS, request);
	request->ifr_flags |= IFF_UP;
	set(any, SIOCSIFFLAGS, request);
}

/* The address is what the kernel's command line says: mudanza.ip=ADDRESS/LENGTH. */
static void connect_network(void)
{
	static const char key[] = "mudanza.ip=";
	char line[4096] = "", name[32];
	int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), file = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	struct ifreq lo = {.ifr_name = "lo"}, card = {.ifr_name = "eth0"};
	unsigned int bytes[4], length;

	set_up(any, &lo);
	if (file < 0 || read(file, line, sizeof line - 1) < 0)
		perror("/proc/cmdline");
	close(file);
	const char *told = strstr(line, key);
	if (told && sscanf(told + sizeof key - 1, "%u.%u.%u.%u/%u", bytes, bytes + 1, bytes + 2, bytes + 3, &length) == 5) {
		uint32_t address = bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
		snprintf(name, sizeof name, "guest-%u", bytes[3]);
		sethostname(name, strlen(name));
		set_address(any, SIOCSIFADDR, &card, htonl(address));
		set_address(any, SIOCSIFNETMASK, &card, htonl(length ? ~0U << (32 - length) : 0));
	}
	/* Those who knew it at another host must find it at this one. */
	write_file("/proc/sys/net/ipv4/conf/eth0/arp_notify", "1");
	set_up(any, &card);
	close(any);
}

int main(void)
{
	struct dirent **modules;
	struct stat firmware;
	int count;

	mounted("proc", "/proc");
	mounted("sysfs", "/sys");
	mounted("devtmpfs", "/dev");
	count = scandir("/modules", &modules, is_module, alphasort);
	for (int n = 0; n < count; n++)
		load(modules[n]->d_name);
	if (!stat("/sys/firmware/efi", &firmware))
		mounted("efivarfs", "/sys/firmware/efi/efivars");
	connect_network();
	execl("/bin/init", "/bin/init", NULL);
	perror("/bin/init");
	return 1;
}
