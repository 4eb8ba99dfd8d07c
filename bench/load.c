/* Load over loopback for the bench: keep-alive connections, one request on its way on each, JSON on standard output.
 *
 *   load PORT CONNECTIONS SECONDS REQUESTS FIRST RATE AGAIN
 *
 * REQUESTS is a file of raw HTTP requests, each behind its length (four bytes, little endian). The run begins with
 * request FIRST and ends after SECONDS, or where the file ends, unless AGAIN is 1: then it begins again. RATE 0 is a
 * closed loop: each answer is followed by the next request. Any other RATE is constant, and latency counts from the
 * time at which a request was due, so that a server that stands still cannot hide the requests that waited.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_BYTES 65536
#define DRAIN_NS 10000000000LL /* how long answers are waited for after the end */
#define STEPS 32               /* buckets in each power of two: a latency is known to three per cent */
#define BUCKETS (64 * STEPS)
#define TIMER UINT32_MAX

struct connection {
    int socket;
    int busy;
    int64_t due; /* when the request that is on its way was to be sent */
    const char *request;
    size_t left; /* bytes of the request that are still to be sent */
    char answer[ANSWER_BYTES];
    size_t got;
};

static const char **requests;
static uint32_t *lengths;
static size_t total, next_request;
static struct connection *connections;
static uint32_t *idle; /* a ring: the connection that has been idle for longest is next, so that all are used */
static size_t idle_first, idle_count, connection_count;
static int poller, port, again;
static uint64_t statuses[600], histogram[BUCKETS], sent, answered, broken;
static int64_t slowest, finished_at;

static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void read_requests(const char *path) {
    struct stat about;
    int file = open(path, O_RDONLY);
    if (file < 0 || fstat(file, &about) < 0) fail(path);
    const char *data = mmap(NULL, about.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (data == MAP_FAILED) fail(path);
    for (off_t at = 0; at + 4 <= about.st_size; total++) {
        uint32_t length;
        memcpy(&length, data + at, 4);
        at += 4 + (off_t)length;
    }
    requests = calloc(total + 1, sizeof *requests);
    lengths = calloc(total + 1, sizeof *lengths);
    if (!requests || !lengths) fail("memory");
    off_t at = 0;
    for (size_t number = 0; number < total; number++) {
        memcpy(&lengths[number], data + at, 4);
        requests[number] = data + at + 4;
        at += 4 + (off_t)lengths[number];
    }
}

static void rest(uint32_t number) {
    idle[(idle_first + idle_count++) % connection_count] = number;
}

static uint32_t take_idle(void) {
    uint32_t number = idle[idle_first];
    idle_first = (idle_first + 1) % connection_count;
    idle_count--;
    return number;
}

static void open_connection(uint32_t number) {
    struct connection *one = &connections[number];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    one->socket = socket(AF_INET, SOCK_STREAM, 0);
    if (one->socket < 0 || connect(one->socket, (struct sockaddr *)&address, sizeof address) < 0) fail("connect");
    int yes = 1;
    setsockopt(one->socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(one->socket, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, one->socket, &event) < 0) fail("epoll");
    one->busy = 0;
    one->got = one->left = 0;
    rest(number);
}

static void reopen(uint32_t number) {
    close(connections[number].socket);
    open_connection(number);
}

/* Send what is left of a request; `waited` where the socket was full before. */
static void push(uint32_t number, int waited) {
    struct connection *one = &connections[number];
    while (one->left > 0) {
        ssize_t done = send(one->socket, one->request, one->left, MSG_NOSIGNAL);
        if (done < 0 && errno == EAGAIN) break;
        if (done < 0) return; /* the answer, or the end of the connection, tells */
        one->request += done;
        one->left -= (size_t)done;
    }
    if (one->left > 0 || waited) {
        struct epoll_event event = {.events = EPOLLIN | (one->left ? EPOLLOUT : 0), .data.u32 = number};
        epoll_ctl(poller, EPOLL_CTL_MOD, one->socket, &event);
    }
}

/* Send the next request on an idle connection; return 0 where there is no request or no connection. */
static int issue(int64_t due) {
    if (idle_count == 0) return 0;
    if (next_request == total) {
        if (!again) return 0;
        next_request = 0;
    }
    uint32_t number = take_idle();
    struct connection *one = &connections[number];
    one->busy = 1;
    one->due = due;
    one->request = requests[next_request];
    one->left = lengths[next_request++];
    sent++;
    push(number, 0);
    return 1;
}

static void count(int64_t took) {
    uint64_t value = took > 0 ? (uint64_t)took : 1;
    int power = 63 - __builtin_clzll(value);
    uint64_t step = power < 5 ? 0 : (value >> (power - 5)) & (STEPS - 1);
    histogram[power * STEPS + (int)step]++;
    if (took > slowest) slowest = took;
}

/* Upper end of a bucket in microseconds. */
static double upper_us(int bucket) {
    int power = bucket / STEPS;
    double low = (double)(1ULL << power);
    return (low + low * (bucket % STEPS + 1) / STEPS) / 1000.0;
}

/* Return the length of the whole answer in the buffer, 0 while some of it is missing, -1 where it cannot be read. */
static long answer_length(struct connection *one, int *status, int *closes) {
    one->answer[one->got] = 0;
    char *end = strstr(one->answer, "\r\n\r\n");
    if (!end) return one->got + 1 >= ANSWER_BYTES ? -1 : 0;
    if (strncmp(one->answer, "HTTP/1.1 ", 9) != 0) return -1;
    *status = atoi(one->answer + 9);
    long length = *status == 204 || *status == 304 ? 0 : -1;
    for (char *line = strstr(one->answer, "\r\n"); line && line < end; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, "content-length:", 15) == 0) length = atol(line + 17);
        if (strncasecmp(line + 2, "connection: close", 17) == 0) *closes = 1;
    }
    if (length < 0) return -1; /* chunked answers are not for us */
    length += end + 4 - one->answer;
    if (length >= ANSWER_BYTES) return -1;
    return (size_t)length <= one->got ? length : 0;
}

static void receive(uint32_t number) {
    struct connection *one = &connections[number];
    ssize_t got = recv(one->socket, one->answer + one->got, ANSWER_BYTES - 1 - one->got, 0);
    if (got < 0 && errno == EAGAIN) return;
    int status = 0, closes = 0;
    long length = -1;
    if (got > 0) {
        one->got += (size_t)got;
        length = answer_length(one, &status, &closes);
        if (length == 0) return;
    }
    if (!one->busy) { /* an idle connection was closed, which servers may do */
        for (size_t at = idle_count; at > 0; at--) {
            uint32_t other = take_idle();
            if (other != number) rest(other);
        }
        reopen(number);
        return;
    }
    finished_at = now_ns();
    if (length < 0 || status < 0 || status >= 600) {
        broken++;
        reopen(number);
        return;
    }
    statuses[status]++;
    answered++;
    count(finished_at - one->due);
    if (closes || one->left > 0) { /* refused before the whole request was sent: the rest must not follow */
        reopen(number);
        return;
    }
    one->busy = 0;
    one->got = 0;
    rest(number);
}

static void wake_at(int timer, int64_t when) {
    struct itimerspec time = {.it_value = {.tv_sec = when / 1000000000LL, .tv_nsec = when % 1000000000LL}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &time, NULL);
}

static double run(double seconds, double rate) {
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event events[1024], alarm = {.events = EPOLLIN, .data.u32 = TIMER};
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &alarm);
    int64_t start = now_ns(), end = start + (int64_t)(seconds * 1e9), now = start;
    int over = 0;
    finished_at = start;
    while (!over || idle_count < connection_count) {
        now = now_ns();
        int64_t due = rate > 0 ? start + (int64_t)((double)sent * 1e9 / rate) : now;
        while (!over && due <= now) {
            over = now >= end || (next_request == total && !again);
            if (over || !issue(due)) break;
            due = rate > 0 ? start + (int64_t)((double)sent * 1e9 / rate) : now;
        }
        over = over || now >= end;
        if (over && now > end + DRAIN_NS) break;
        /* Without an idle connection only an answer can help; else the next request, or the end, is waited for. */
        wake_at(timer, over ? end + DRAIN_NS + 1 : rate > 0 && idle_count > 0 && due < end ? due : end);
        int ready = epoll_wait(poller, events, 1024, 1000);
        for (int at = 0; at < ready; at++) {
            if (events[at].data.u32 == TIMER) {
                uint64_t times;
                if (read(timer, &times, sizeof times) < 0 && errno != EAGAIN) fail("timer");
                continue;
            }
            if (events[at].events & EPOLLOUT) push(events[at].data.u32, 1);
            if (events[at].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(events[at].data.u32);
        }
    }
    return (double)(finished_at - start) / 1e9;
}

static double percentile(double share) {
    uint64_t wanted = (uint64_t)(share * (double)answered), before = 0;
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        if ((before += histogram[bucket]) > wanted) return upper_us(bucket);
    return (double)slowest / 1000.0;
}

static void report(double took) {
    const char *comma = "";
    printf("{\"seconds\": %.6f, \"sent\": %lu, \"answered\": %lu, \"broken\": %lu, \"next\": %zu, \"total\": %zu, ", took,
           sent, answered, broken, next_request, total);
    printf("\"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"statuses\": {", percentile(0.5),
           percentile(0.9), percentile(0.99), (double)slowest / 1000.0);
    for (int status = 0; status < 600; status++)
        if (statuses[status]) printf("%s\"%d\": %lu", comma, status, statuses[status]), comma = ", ";
    printf("}, \"histogram_us\": [");
    comma = "";
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        if (histogram[bucket]) printf("%s[%.1f, %lu]", comma, upper_us(bucket), histogram[bucket]), comma = ", ";
    printf("]}\n");
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: load PORT CONNECTIONS SECONDS REQUESTS FIRST RATE AGAIN\n");
        return 2;
    }
    port = atoi(argv[1]);
    connection_count = (size_t)atoi(argv[2]);
    again = atoi(argv[7]);
    read_requests(argv[4]);
    next_request = (size_t)atol(argv[5]);
    if (total == 0 || next_request >= total) {
        fprintf(stderr, "load: %zu requests, none to begin with at %zu\n", total, next_request);
        return 2;
    }
    connections = calloc(connection_count, sizeof *connections);
    idle = calloc(connection_count, sizeof *idle);
    poller = epoll_create1(0);
    if (!connections || !idle || poller < 0) fail("memory");
    for (uint32_t number = 0; number < connection_count; number++) open_connection(number);
    report(run(atof(argv[3]), atof(argv[6])));
    return 0;
}
