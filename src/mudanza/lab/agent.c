/*
 * The agent inside a lab guest: a heartbeat that goes to the disk first and to the network second,
 * writers that dirty memory and disk at a set rate, and a control port to steer and question them.
 *
 * Settings come from the kernel command line (mudanza.beat=20 mudanza.write=67108864 ...). Sizes in
 * bytes, rates in bytes per second, the beat in milliseconds.
 *
 * Data disk (/dev/vda):  sector 0: header | ring of one-sector records | room for the disk writer.
 * Every sector of ours ends in a CRC-32 of what precedes it; numbers are little-endian.
 */
#define _GNU_SOURCE
#include "agent_keep.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/input.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DISK "/dev/vda"
#define HEADER_MAGIC "MUDHEAD1"
#define RECORD_MAGIC "MUDBEAT1"
#define BLOCK_MAGIC "MUDDATA1"
#define SECOND 1000000000ULL
#define MILLISECOND 1000000ULL
#define TICK (5 * MILLISECOND)

enum {
    SECTOR = 512,
    PAGE = 4096,
    DISK_BLOCK = 64 * 1024,
    CHUNK = 1024 * 1024,
    RING_LIMIT = 64 * 1024 * 1024,
    MEMORY_RESERVE = 24 * 1024 * 1024,
    BEAT_PORT = 7000,
    CONTROL_PORT = 7001,
    MAX_CLIENTS = 32,
    MAX_BURNERS = 64,
    MAX_BUTTONS = 8,
    CLIENT_BUFFER = 256 * 1024, /* about 100 s of beats at 50 a second */
    TICK_PAGES = 256,
};

struct header {
    char magic[8];
    uint64_t boots, ring_offset, capacity, disk_bytes;
    uint8_t unused[SECTOR - 5 * 8 - 4];
    uint32_t crc;
} __attribute__((packed));

struct record {
    char magic[8];
    uint64_t seq, monotonic, boot;
    uint8_t unused[SECTOR - 4 * 8 - 4];
    uint32_t crc;
} __attribute__((packed));

_Static_assert(sizeof(struct header) == SECTOR && sizeof(struct record) == SECTOR, "one sector each");

/* A thread that writes at a rate and can be told to stand still. Guarded by `lock` but for the counter. */
struct writer {
    uint64_t rate;
    bool idle;
    atomic_ullong written;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct writer memory = {.idle = true}, disk = {.idle = true};
static uint64_t set_wanted, set_size; /* the working set: bytes asked for, bytes filled */

static struct header layout; /* all zero while there is no data disk */
static int disk_fd = -1;     /* O_DIRECT | O_SYNC: what was written is there to stay */
static int bulk_fd = -1;     /* O_DIRECT */
static atomic_ullong last_seq, tick_gap, disk_errors, dropped_clients;
static atomic_ullong write_gap; /* the longest time between two pages of the memory writer, since it was asked for */
static atomic_int client_count, burners;
static uint64_t beat_period = 20 * MILLISECOND;
static uint32_t crc_table[8][256];

/* ---- small tools ---- */

static void say(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("mudanza agent: ", stdout);
    vprintf(format, arguments);
    putchar('\n');
    fflush(stdout);
    va_end(arguments);
}

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static void sleep_until(uint64_t when)
{
    struct timespec time = {.tv_sec = (time_t)(when / SECOND), .tv_nsec = (long)(when % SECOND)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == EINTR)
        ;
}

static uint64_t next_random(uint64_t *state) /* xorshift64: incompressible is all we ask of it */
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void fill_random(void *memory_start, size_t bytes, uint64_t *state)
{
    uint64_t *word = memory_start;
    for (size_t i = 0; i < bytes / sizeof *word; i++)
        word[i] = next_random(state);
}

static void make_crc_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = (value >> 1) ^ (value & 1 ? 0xEDB88320u : 0);
        crc_table[0][i] = value;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int slice = 1; slice < 8; slice++)
            crc_table[slice][i] =
                (crc_table[slice - 1][i] >> 8) ^ crc_table[0][crc_table[slice - 1][i] & 255];
}

/* CRC-32 as zlib has it; eight bytes at a step, because emulated CPUs read whole disks with it. */
static uint32_t crc32(uint32_t crc, const void *data, size_t bytes)
{
    const uint8_t *byte = data;
    crc = ~crc;
    for (; bytes >= 8; bytes -= 8, byte += 8) {
        uint64_t word;
        memcpy(&word, byte, 8);
        word ^= crc;
        crc = 0;
        for (int slice = 0; slice < 8; slice++)
            crc ^= crc_table[7 - slice][(word >> (8 * slice)) & 255];
    }
    for (; bytes; bytes--)
        crc = (crc >> 8) ^ crc_table[0][(crc ^ *byte++) & 255];
    return ~crc;
}

static void *aligned(size_t bytes)
{
    void *memory_start = NULL;
    if (posix_memalign(&memory_start, PAGE, bytes)) {
        say("out of memory");
        abort();
    }
    return memory_start;
}

static uint64_t setting(const char *name, uint64_t fallback)
{
    static char line[4096];
    if (!line[0]) {
        int fd = open("/proc/cmdline", O_RDONLY);
        if (fd < 0 || read(fd, line, sizeof line - 1) < 0)
            say("cannot read /proc/cmdline: %s", strerror(errno));
        close(fd);
    }
    char key[64];
    snprintf(key, sizeof key, "mudanza.%s=", name);
    const char *found = strstr(line, key);
    return found ? strtoull(found + strlen(key), NULL, 10) : fallback;
}

static void start_thread(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, body, argument)) {
        say("cannot start a thread");
        abort();
    }
    pthread_detach(thread);
}

/* The guest's own load must not look like a stall from outside. */
static void become_realtime(int priority)
{
    struct sched_param parameter = {.sched_priority = priority};
    if (pthread_setschedparam(pthread_self(), SCHED_FIFO, &parameter))
        say("no real-time priority: stalls may be the guest's own load");
}

/* ---- the data disk ---- */

static bool sector_is_whole(const void *sector, const char *magic)
{
    uint32_t crc;
    memcpy(&crc, (const uint8_t *)sector + SECTOR - sizeof crc, sizeof crc);
    return memcmp(sector, magic, 8) == 0 && crc == crc32(0, sector, SECTOR - sizeof crc);
}

static bool write_sector(const void *sector, uint64_t offset)
{
    if (pwrite(disk_fd, sector, SECTOR, (off_t)offset) == SECTOR)
        return true;
    if (atomic_fetch_add(&disk_errors, 1) == 0)
        say("cannot write to " DISK ": %s", strerror(errno));
    return false;
}

/* The greatest sequence number in the ring: where counting goes on after a restart. */
static uint64_t find_last_seq(void)
{
    uint8_t *chunk = aligned(CHUNK);
    uint64_t last = 0, bytes = layout.capacity * SECTOR;
    for (uint64_t at = 0; at < bytes; at += CHUNK) {
        ssize_t got = pread(bulk_fd, chunk, CHUNK, (off_t)(layout.ring_offset + at));
        if (got <= 0) {
            say("cannot read the ring: %s", strerror(errno));
            abort();
        }
        for (uint64_t i = 0; i + SECTOR <= (uint64_t)got && at + i < bytes; i += SECTOR) {
            const struct record *found = (const struct record *)(chunk + i);
            if (found->seq > last && sector_is_whole(found, RECORD_MAGIC))
                last = found->seq;
        }
    }
    free(chunk);
    return last;
}

static void new_layout(uint64_t disk_bytes)
{
    uint64_t ring = disk_bytes / 4 < RING_LIMIT ? disk_bytes / 4 : RING_LIMIT;
    layout = (struct header){.magic = HEADER_MAGIC, .ring_offset = PAGE, .capacity = ring / SECTOR,
                             .disk_bytes = disk_bytes};
}

/* False: there is a disk, and it is not ours to write on. */
static bool open_disk(void)
{
    uint64_t bytes = 0;
    disk_fd = open(DISK, O_RDWR | O_DIRECT | O_SYNC);
    bulk_fd = open(DISK, O_RDWR | O_DIRECT);
    if (disk_fd < 0 || bulk_fd < 0) {
        say("no data disk: the heartbeat goes to the network only");
        return true;
    }
    struct header *sector = aligned(SECTOR);
    if (ioctl(disk_fd, BLKGETSIZE64, &bytes) || pread(disk_fd, sector, SECTOR, 0) != SECTOR) {
        say("cannot read " DISK ": %s", strerror(errno));
        return false;
    }
    static const struct header blank;
    if (sector_is_whole(sector, HEADER_MAGIC))
        layout = *sector;
    else if (memcmp(sector, &blank, SECTOR) == 0)
        new_layout(bytes);
    else {
        say(DISK " holds something else, or its header is damaged: not touching it");
        return false;
    }
    layout.boots++;
    layout.crc = crc32(0, &layout, SECTOR - sizeof layout.crc);
    *sector = layout;
    bool written = write_sector(sector, 0);
    free(sector);
    return written;
}

static uint64_t data_offset(void)
{
    uint64_t end = layout.ring_offset + layout.capacity * SECTOR;
    return (end + DISK_BLOCK - 1) / DISK_BLOCK * DISK_BLOCK;
}

/* ---- the heartbeat ---- */

static int listen_on(uint16_t port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, MAX_CLIENTS)) {
        say("cannot listen on port %d: %s", port, strerror(errno));
        abort();
    }
    return fd;
}

static int clients[MAX_CLIENTS];

static void accept_clients(int listener)
{
    int fd, yes = 1, buffer = CLIENT_BUFFER;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int slot = atomic_load(&client_count);
        if (slot == MAX_CLIENTS) {
            close(fd);
            return;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer);
        clients[slot] = fd;
        atomic_store(&client_count, slot + 1);
    }
}

/* A client that cannot take a whole line is dropped: it must see a break, never a hole. */
static void send_to_clients(const char *line, ssize_t length)
{
    int count = atomic_load(&client_count);
    for (int i = 0; i < count;) {
        ssize_t sent = send(clients[i], line, (size_t)length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent == length) {
            i++;
            continue;
        }
        bool too_slow = sent >= 0 || errno == EAGAIN; /* else it has left */
        atomic_fetch_add(&dropped_clients, too_slow);
        close(clients[i]);
        clients[i] = clients[--count];
    }
    atomic_store(&client_count, count);
}

/* One line a beat: seq, guest's monotonic ns, longest turn of this loop and of the tick since the
   last beat (ns), boot number. A number that is not safely on the disk is never sent, but tried again. */
static void beat_forever(void)
{
    struct record *record = aligned(SECTOR);
    memset(record, 0, SECTOR);
    int listener = listen_on(BEAT_PORT);
    fcntl(listener, F_SETFL, O_NONBLOCK);
    uint64_t seq = atomic_load(&last_seq) + 1, next = now_ns(), previous = next, longest = 0;
    for (;;) {
        sleep_until(next);
        uint64_t now = now_ns();
        next = next + beat_period > now ? next + beat_period : now + beat_period;
        longest = now - previous > longest ? now - previous : longest;
        previous = now;
        accept_clients(listener);
        if (disk_fd >= 0) {
            *record = (struct record){.magic = RECORD_MAGIC, .seq = seq, .monotonic = now, .boot = layout.boots};
            record->crc = crc32(0, record, SECTOR - sizeof record->crc);
            if (!write_sector(record, layout.ring_offset + (seq - 1) % layout.capacity * SECTOR))
                continue;
        }
        atomic_store(&last_seq, seq);
        char line[128];
        int length = snprintf(line, sizeof line, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %llu %" PRIu64 "\n", seq, now,
                              longest, atomic_exchange(&tick_gap, 0), layout.boots);
        send_to_clients(line, length);
        longest = 0;
        seq++;
    }
}

/* Feels page-fault and scheduling stalls without ever waiting for the disk. It only reads, so that an
   idle guest dirties next to nothing. (A tick of 1 ms took a seventh of a CPU where guests are emulated.) */
static void *tick_forever(void *unused)
{
    (void)unused;
    become_realtime(20);
    uint64_t seed = now_ns() | 1, previous = now_ns();
    volatile uint8_t *pages = aligned(TICK_PAGES * PAGE);
    fill_random((void *)pages, TICK_PAGES * PAGE, &seed);
    for (unsigned turn = 0;; turn++) {
        sleep_until(now_ns() + TICK);
        (void)pages[(turn % TICK_PAGES) * PAGE];
        uint64_t now = now_ns(), gap = now - previous;
        previous = now;
        if (gap > atomic_load(&tick_gap))
            atomic_store(&tick_gap, gap);
    }
    return NULL;
}

/* ---- the writers ---- */

/* How many whole units are due, in slices of 5 ms; what could not be done within 100 ms is forgotten. */
static uint64_t units_due(uint64_t rate, uint64_t unit, uint64_t *since, uint64_t *credit)
{
    sleep_until(now_ns() + 5 * MILLISECOND);
    uint64_t now = now_ns(), elapsed = now - *since;
    *since = now;
    *credit += rate / 1000 * (elapsed < 100 * MILLISECOND ? elapsed : 100 * MILLISECOND) / MILLISECOND;
    uint64_t most = rate / 10 > unit ? rate / 10 : unit;
    *credit = *credit < most ? *credit : most;
    uint64_t units = *credit / unit;
    *credit -= units * unit;
    return units;
}

/* The rate now; waits for one, or for a new working set, announcing that the writer stands still. */
static uint64_t await_work(struct writer *writer, uint64_t *since)
{
    pthread_mutex_lock(&lock);
    while (writer->rate == 0 && !(writer == &memory && set_wanted != set_size)) {
        if (!writer->idle) {
            writer->idle = true;
            pthread_cond_broadcast(&changed); /* once: two idle writers would keep waking each other */
        }
        pthread_cond_wait(&changed, &lock);
        *since = now_ns();
    }
    writer->idle = false;
    uint64_t rate = writer->rate;
    pthread_mutex_unlock(&lock);
    return rate;
}

/* Every page is made from a number of its own, kept apart from it: a page that went back to an older
   content, or to none, does not fit its number any more. Of a page that was changed a little since, the first word is
   kept apart as well. Guarded by memory.idle. */
static struct {
    uint8_t *start;
    uint64_t *numbers, *words;
    uint64_t size, at, seed;
} set;

static atomic_bool little; /* the memory writer changes one word of each page, not all of it */

static void change_word(uint64_t page)
{
    *(uint64_t *)(set.start + page * PAGE) = set.words[page] = next_random(&set.seed);
}

static void write_page(uint64_t page)
{
    uint64_t number = set.numbers[page] = next_random(&set.seed);
    fill_random(set.start + page * PAGE, PAGE, &number);
    set.words[page] = *(uint64_t *)(set.start + page * PAGE);
}

static void *pages_of(uint64_t bytes)
{
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) {
        say("no memory for a working set of %" PRIu64 " bytes", bytes);
        abort();
    }
    return start;
}

/* Gives the working set the size asked for, full of incompressible data. */
static void resize_if_asked(void)
{
    pthread_mutex_lock(&lock);
    uint64_t wanted = set_wanted;
    pthread_mutex_unlock(&lock);
    if (wanted == set.size)
        return;
    if (set.size) {
        munmap(set.start, set.size);
        munmap(set.numbers, set.size / PAGE * sizeof *set.numbers);
        munmap(set.words, set.size / PAGE * sizeof *set.words);
    }
    set.size = wanted;
    set.at = 0;
    if (wanted) {
        set.start = pages_of(wanted);
        set.numbers = pages_of(wanted / PAGE * sizeof *set.numbers);
        set.words = pages_of(wanted / PAGE * sizeof *set.words);
    }
    for (uint64_t page = 0; page < wanted / PAGE; page++)
        write_page(page);
    pthread_mutex_lock(&lock);
    set_size = wanted;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void note_gap(uint64_t *previous)
{
    uint64_t now = now_ns();
    if (now - *previous > atomic_load(&write_gap))
        atomic_store(&write_gap, now - *previous);
    *previous = now;
}

static void *write_memory_forever(void *unused)
{
    (void)unused;
    uint64_t credit = 0, since = now_ns(), previous = 0;
    set.seed = now_ns() | 1;
    for (;;) {
        uint64_t waiting = since, rate = await_work(&memory, &since);
        uint64_t size = set.size;
        resize_if_asked();
        if (since != waiting || size != set.size || !previous)
            previous = now_ns(); /* what it was not asked to write is no gap */
        for (uint64_t due = units_due(rate, PAGE, &since, &credit); due && set.size; due--) {
            (atomic_load(&little) ? change_word : write_page)(set.at / PAGE);
            set.at = (set.at + PAGE) % set.size;
            atomic_fetch_add(&memory.written, PAGE);
            note_gap(&previous);
        }
    }
    return NULL;
}

static void *write_disk_forever(void *unused)
{
    (void)unused;
    uint8_t *block = aligned(DISK_BLOCK);
    uint64_t blocks = (layout.disk_bytes - data_offset()) / DISK_BLOCK;
    uint64_t credit = 0, since = now_ns(), seed = now_ns() | 1;
    for (;;) {
        uint64_t rate = await_work(&disk, &since);
        for (uint64_t due = units_due(rate, DISK_BLOCK, &since, &credit); due; due--) {
            fill_random(block, DISK_BLOCK, &seed);
            /* Whoever compares two copies of the disk can tell a block written after they parted. */
            memcpy(block, BLOCK_MAGIC, sizeof(uint64_t));
            uint64_t stamp = atomic_load(&last_seq);
            memcpy(block + sizeof stamp, &stamp, sizeof stamp);
            uint64_t offset = data_offset() + next_random(&seed) % blocks * DISK_BLOCK;
            if (pwrite(bulk_fd, block, DISK_BLOCK, (off_t)offset) == DISK_BLOCK)
                atomic_fetch_add(&disk.written, DISK_BLOCK);
            else
                atomic_fetch_add(&disk_errors, 1);
        }
    }
    return NULL;
}

static void *burn(void *index)
{
    while ((intptr_t)index < atomic_load(&burners))
        ;
    return NULL;
}

/* ---- control ---- */

static void set_rate(struct writer *writer, uint64_t rate)
{
    pthread_mutex_lock(&lock);
    writer->rate = rate;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void stand_still(void)
{
    set_rate(&memory, 0);
    set_rate(&disk, 0);
    pthread_mutex_lock(&lock);
    while (!memory.idle || !disk.idle)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}

static uint64_t available_memory(void)
{
    uint64_t kib = 0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1)
            break;
    if (file)
        fclose(file);
    return kib * 1024;
}

/* Waits until the working set is filled; false if the guest has not that much memory to give. */
static bool set_working_set(uint64_t bytes)
{
    bytes = bytes / PAGE * PAGE;
    pthread_mutex_lock(&lock);
    bool fits = bytes == set_wanted || bytes + MEMORY_RESERVE <= available_memory() + set_size;
    if (fits) {
        set_wanted = bytes;
        pthread_cond_broadcast(&changed);
        while (set_size != set_wanted)
            pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
    return fits;
}

/* Without a working set there is nothing to rewrite: half of what is free becomes one then. */
static bool set_memory_rate(uint64_t rate)
{
    pthread_mutex_lock(&lock);
    uint64_t bytes = set_wanted;
    pthread_mutex_unlock(&lock);
    if (rate && !set_working_set(bytes ? bytes : available_memory() / 2))
        return false;
    set_rate(&memory, rate);
    return true;
}

static void set_burners(int count)
{
    int running = atomic_exchange(&burners, count);
    for (intptr_t index = running; index < count; index++)
        start_thread(burn, (void *)index);
}

static void power_off(void)
{
    stand_still();
    if (bulk_fd >= 0)
        fsync(bulk_fd);
    say("powering off");
    reboot(RB_POWER_OFF);
}

static void verify(int out)
{
    uint64_t last = atomic_load(&last_seq);
    uint64_t first = last > layout.capacity ? last - layout.capacity + 1 : 1;
    uint64_t bad = 0, first_bad = 0;
    uint8_t *chunk = aligned(CHUNK);
    for (uint64_t slot = 0; slot < layout.capacity && slot < last; slot++) {
        uint64_t at = slot * SECTOR % CHUNK;
        if (at == 0 && pread(bulk_fd, chunk, CHUNK, (off_t)(layout.ring_offset + slot * SECTOR)) <= 0) {
            dprintf(out, "bad cannot read the ring: %s\n", strerror(errno));
            free(chunk);
            return;
        }
        const struct record *found = (const struct record *)(chunk + at);
        uint64_t expected = first + (slot + layout.capacity - (first - 1) % layout.capacity) % layout.capacity;
        /* The beat goes on while we read: the oldest places may already hold the next round. */
        bool whole = sector_is_whole(found, RECORD_MAGIC) &&
                     (found->seq == expected || (found->seq == expected + layout.capacity && found->seq > last));
        if (!whole && !bad++)
            first_bad = expected;
    }
    free(chunk);
    if (bad)
        dprintf(out, "bad %" PRIu64 " of %" PRIu64 " records, first at %" PRIu64 "\n", bad, last - first + 1, first_bad);
    else
        dprintf(out, "ok %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", first, last, last - first + 1);
}

static bool page_is_whole(uint64_t page)
{
    uint64_t number = set.numbers[page];
    const uint64_t *word = (const uint64_t *)(set.start + page * PAGE);
    for (size_t i = 0; i < PAGE / sizeof *word; i++) {
        uint64_t expected = next_random(&number);
        if (word[i] != (i ? expected : set.words[page]))
            return false;
    }
    return true;
}

/* Holds the memory writer still while it looks. */
static void verify_memory(int out)
{
    pthread_mutex_lock(&lock);
    uint64_t rate = memory.rate, bad = 0, first_bad = 0;
    memory.rate = 0;
    while (!memory.idle)
        pthread_cond_wait(&changed, &lock);
    uint64_t pages = set.size / PAGE;
    for (uint64_t page = 0; page < pages; page++)
        if (!page_is_whole(page) && !bad++)
            first_bad = page;
    memory.rate = rate;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    if (bad)
        dprintf(out, "bad %" PRIu64 " of %" PRIu64 " pages, first at %" PRIu64 "\n", bad, pages, first_bad);
    else
        dprintf(out, "ok %" PRIu64 "\n", pages);
}

static void sum(int out, uint64_t offset, uint64_t length)
{
    if (offset % SECTOR || length % SECTOR || offset + length > layout.disk_bytes) {
        dprintf(out, "error offset and length must be whole sectors within %" PRIu64 " bytes\n", layout.disk_bytes);
        return;
    }
    uint8_t *chunk = aligned(CHUNK);
    uint32_t crc = 0;
    while (length) {
        ssize_t got = pread(bulk_fd, chunk, length < CHUNK ? length : CHUNK, (off_t)offset);
        if (got <= 0) {
            dprintf(out, "error cannot read at %" PRIu64 ": %s\n", offset, strerror(errno));
            break;
        }
        crc = crc32(crc, chunk, (size_t)got);
        offset += (uint64_t)got;
        length -= (uint64_t)got;
    }
    if (!length)
        dprintf(out, "ok %08" PRIx32 "\n", crc);
    free(chunk);
}

static void stats(int out)
{
    pthread_mutex_lock(&lock);
    dprintf(out,
            "ok seq=%llu boot=%" PRIu64 " monotonic_ns=%" PRIu64 " beat_ns=%" PRIu64 " memory_rate=%" PRIu64
            " memory_written=%llu workingset=%" PRIu64 " disk_rate=%" PRIu64 " disk_written=%llu disk_errors=%llu"
            " disk_bytes=%" PRIu64 " ring_offset=%" PRIu64 " ring_capacity=%" PRIu64 " data_offset=%" PRIu64
            " burn=%d clients=%d dropped=%llu\n",
            atomic_load(&last_seq), layout.boots, now_ns(), beat_period, memory.rate, atomic_load(&memory.written),
            set_size, disk.rate, atomic_load(&disk.written), atomic_load(&disk_errors), layout.disk_bytes,
            layout.ring_offset, layout.capacity, data_offset(), atomic_load(&burners), atomic_load(&client_count),
            atomic_load(&dropped_clients));
    pthread_mutex_unlock(&lock);
}

static const char *no_disk(void)
{
    return layout.disk_bytes ? NULL : "error there is no data disk";
}

/* Carries out a command that takes one number or none; returns the answer. */
static const char *set_something(const char *word, uint64_t number)
{
    if (strcmp(word, "mem") == 0)
        return set_memory_rate(number) ? "ok" : "error not enough memory for a working set";
    if (strcmp(word, "workingset") == 0)
        return set_working_set(number) ? "ok" : "error not enough memory";
    if (strcmp(word, "disk") == 0 && no_disk())
        return no_disk();
    if (strcmp(word, "disk") == 0)
        set_rate(&disk, number);
    else if (strcmp(word, "burn") == 0 && number <= MAX_BURNERS)
        set_burners((int)number);
    else if (strcmp(word, "quiet") == 0)
        stand_still();
    else if (strcmp(word, "sync") == 0)
        return bulk_fd >= 0 && fsync(bulk_fd) ? "error the disk did not sync" : "ok";
    else
        return "error unknown command";
    return "ok";
}

/* Keeps a number outside the disk, or, without one, tells which is kept there. */
static void keep(int out, bool in_tpm, bool given, uint64_t number)
{
    const char *trouble;
    if (given)
        trouble = in_tpm ? keep_in_tpm(number) : keep_in_nvram(number);
    else
        trouble = in_tpm ? kept_in_tpm(&number) : kept_in_nvram(&number);
    if (trouble)
        dprintf(out, "error %s\n", trouble);
    else
        dprintf(out, "ok %" PRIu64 "\n", number);
}

/* Keeps a number in the disk's last sector, and answers once it is there to stay; without one, tells which is. */
static void turn(int out, bool given, uint64_t number)
{
    uint64_t place = layout.disk_bytes / SECTOR * SECTOR - SECTOR, *sector = aligned(SECTOR);
    memset(sector, 0, SECTOR);
    *sector = number;
    if (given ? write_sector(sector, place) : pread(disk_fd, sector, SECTOR, (off_t)place) == SECTOR)
        dprintf(out, "ok %" PRIu64 "\n", *sector);
    else
        dprintf(out, "error the disk's last sector: %s\n", strerror(errno));
    free(sector);
}

static void answer(int out, const char *line)
{
    char word[16] = "";
    uint64_t first = 0, second = 0;
    int words = sscanf(line, "%15s %" SCNu64 " %" SCNu64, word, &first, &second);
    if (strcmp(word, "stats") == 0)
        stats(out);
    else if (strcmp(word, "nvram") == 0 || strcmp(word, "tpm") == 0)
        keep(out, strcmp(word, "tpm") == 0, words > 1, first);
    else if (strcmp(word, "memverify") == 0)
        verify_memory(out);
    else if (strcmp(word, "gap") == 0)
        dprintf(out, "ok %llu\n", atomic_exchange(&write_gap, 0));
    else if ((strcmp(word, "verify") == 0 || strcmp(word, "sum") == 0 || strcmp(word, "turn") == 0) && no_disk())
        dprintf(out, "%s\n", no_disk());
    else if (strcmp(word, "verify") == 0)
        verify(out);
    else if (strcmp(word, "sum") == 0)
        sum(out, first, second);
    else if (strcmp(word, "turn") == 0)
        turn(out, words > 1, first);
    else if (strcmp(word, "poweroff") == 0) {
        dprintf(out, "ok\n");
        power_off();
    } else
        dprintf(out, "%s\n", set_something(word, first));
}

static void *serve_control_client(void *argument)
{
    int fd = (int)(intptr_t)argument;
    FILE *in = fdopen(fd, "r");
    char line[256];
    while (in && fgets(line, sizeof line, in))
        answer(fd, line);
    if (in)
        fclose(in);
    return NULL;
}

static void *serve_control_forever(void *unused)
{
    (void)unused;
    int listener = listen_on(CONTROL_PORT);
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            start_thread(serve_control_client, (void *)(intptr_t)fd);
    }
    return NULL;
}

/* ---- the power button ---- */

static void *watch_power_button(void *unused)
{
    (void)unused;
    struct pollfd buttons[MAX_BUTTONS];
    nfds_t count = 0;
    for (int i = 0; i < MAX_BUTTONS; i++) {
        char path[32];
        snprintf(path, sizeof path, "/dev/input/event%d", i);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            buttons[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    while (count && poll(buttons, count, -1) >= 0)
        for (nfds_t i = 0; i < count; i++) {
            struct input_event event;
            if (buttons[i].revents && read(buttons[i].fd, &event, sizeof event) == sizeof event &&
                event.type == EV_KEY && event.code == KEY_POWER && event.value)
                power_off();
        }
    return NULL;
}

/* In a thread of its own: filling the working set takes a while, and the beat must not wait for it. */
static void *apply_settings(void *unused)
{
    (void)unused;
    set_burners((int)setting("burn", 0));
    set_rate(&disk, layout.disk_bytes ? setting("diskwrite", 0) : 0);
    atomic_store(&little, setting("little", 0));
    uint64_t bytes = setting("workingset", 0);
    if ((bytes && !set_working_set(bytes)) || !set_memory_rate(setting("write", 0)))
        say("not enough memory for the working set");
    return NULL;
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    make_crc_table();
    if (!open_disk())
        return 1;
    if (disk_fd >= 0)
        atomic_store(&last_seq, find_last_seq());
    beat_period = setting("beat", 20) * MILLISECOND;
    if (!setting("stubborn", 0))
        start_thread(watch_power_button, NULL);
    start_thread(tick_forever, NULL);
    start_thread(write_memory_forever, NULL);
    if (disk_fd >= 0)
        start_thread(write_disk_forever, NULL);
    start_thread(serve_control_forever, NULL);
    start_thread(apply_settings, NULL);
    become_realtime(10);
    beat_forever();
}
