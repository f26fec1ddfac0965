/* udpgen: UDP between two network namespaces from one process: floods once, then looks for the highest rate at which less
 * than 0.5 % is lost.
 *
 *   udpgen NS_SOURCE NS_DESTINATION ADDRESS PORT SIZE [SECONDS_A_TRIAL]
 *
 * Prints one JSON object: flood_tx_pps, flood_rx_pps (offered, arrived when flooding), pass_pps (highest rate that passed),
 * trials. The sender sends at most 32 datagrams at once and is woken every 50 us; it ends by itself after a minute.
 *
 * cc -O2 -o udpgen udpgen.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { V = 32, MAXRUN = 64 };
static volatile uint64_t *rxc;
static int size, sk;
static double trial_s = 0.6;
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static void die(const char *s) { perror(s); exit(1); }
static void enter(const char *ns)
{
	char p[256]; snprintf(p, sizeof p, "/run/netns/%s", ns);
	int f = open(p, O_RDONLY); if (f < 0 || setns(f, CLONE_NEWNET)) die(p); close(f);
}
static void receiver(struct sockaddr_in *a)
{
	int big = 16 << 20, s = socket(AF_INET, SOCK_DGRAM, 0);
	setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big);
	if (bind(s, (void *)a, sizeof *a)) die("bind");
	static uint8_t b[64][2048]; struct mmsghdr m[64]; struct iovec v[64]; memset(m, 0, sizeof m);
	for (int i = 0; i < 64; i++) { v[i] = (struct iovec){b[i], 2048}; m[i].msg_hdr.msg_iov = &v[i]; m[i].msg_hdr.msg_iovlen = 1; }
	rxc[MAXRUN] = 1;
	for (;;) {
		int n = recvmmsg(s, m, 64, MSG_WAITFORONE, NULL);
		for (int i = 0; i < n; i++) { uint32_t r; memcpy(&r, b[i], 4); if (r < MAXRUN) rxc[r]++; }
	}
}
static int run;
static void trial(double rate, double *tx, double *rx)
{
	static uint8_t b[2048]; struct mmsghdr m[V]; struct iovec v = {b, size}; memset(m, 0, sizeof m);
	for (int i = 0; i < V; i++) { m[i].msg_hdr.msg_iov = &v; m[i].msg_hdr.msg_iovlen = 1; }
	if (++run >= MAXRUN) exit(1);
	uint32_t id = run; memcpy(b, &id, 4);
	uint64_t sent = 0; double t0 = now(), t;
	while ((t = now() - t0) < trial_s) {
		uint64_t want = rate > 0 ? (uint64_t)(rate * t) : sent + V;
		if (want <= sent) { nanosleep(&(struct timespec){0, 50000}, NULL); continue; }
		int n = want - sent > V ? V : want - sent, r = sendmmsg(sk, m, n, 0);
		if (r > 0) sent += r;
	}
	usleep(200000);
	*tx = sent / t; *rx = rxc[run] / t;
}
int main(int c, char **v)
{
	if (c < 6) { fprintf(stderr, "usage: udpgen NS_SRC NS_DST DST_IP PORT SIZE [SECONDS]\n"); return 2; }
	size = atoi(v[5]); if (c > 6) trial_s = atof(v[6]);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_TIMERSLACK, 1);
	alarm(60);
	rxc = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(v[4]))}; inet_pton(AF_INET, v[3], &a.sin_addr);
	pid_t ch = fork();
	if (!ch) { prctl(PR_SET_PDEATHSIG, SIGKILL); enter(v[2]); receiver(&a); }
	enter(v[1]);
	for (int i = 0; i < 200 && !rxc[MAXRUN]; i++) usleep(5000);
	sk = socket(AF_INET, SOCK_DGRAM, 0); int big = 4 << 20; setsockopt(sk, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
	if (connect(sk, (void *)&a, sizeof a)) die("connect");
	double tx, rx, ftx, frx, lo = 0, hi = 0, best = 0;
	trial(2000, &tx, &rx);                       /* warm up (ARP, handshake) */
	trial(0, &ftx, &frx);
	double r = frx > 1000 ? frx : 1000; int n = 0;
	if (frx >= 0.995 * ftx) { best = ftx; }
	else for (; n < 6; n++) {
		trial(r, &tx, &rx);
		if (rx >= 0.995 * tx) { if (tx > best) best = tx; lo = r; if (tx < 0.9 * r) break; r = hi ? (lo + hi) / 2 : r * 1.25; }
		else { hi = r; r = lo ? (lo + hi) / 2 : r * 0.7; }
		if (hi && lo && hi - lo < 0.08 * hi) break;
	}
	printf("{\"size\":%d,\"flood_tx_pps\":%.0f,\"flood_rx_pps\":%.0f,\"pass_pps\":%.0f,\"trials\":%d}\n", size, ftx, frx, best, n);
	kill(ch, SIGKILL); waitpid(ch, 0, 0);
	return 0;
}
