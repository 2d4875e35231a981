/* The first program of a lab guest: file systems and modules, then /setup.
 *
 * In one program, for an emulated CPU takes long to begin another one for each of them.
 */

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
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

int main(void)
{
	struct dirent **modules;
	int count;

	mounted("proc", "/proc");
	mounted("sysfs", "/sys");
	mounted("devtmpfs", "/dev");
	count = scandir("/modules", &modules, is_module, alphasort);
	for (int n = 0; n < count; n++)
		load(modules[n]->d_name);
	execl("/setup", "/setup", NULL);
	perror("/setup");
	return 1;
}
