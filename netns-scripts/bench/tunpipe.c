/* tunpipe: the smallest tunnel in userspace, TUN <-> connected UDP, in one thread, with nothing sealed: what a tunnel could
 * reach here if it had no work of its own. It is a yardstick, kept apart from the daemon's code so that it does not move
 * with it.
 *
 *   tunpipe TUN LOCAL REMOTE PORT
 *
 * The TUN has the vnet header, TSO and USO; the socket UDP_SEGMENT and UDP_GRO. A super-packet is cut into inner packets,
 * each a datagram of its own, as ESP and WireGuard must, and they are joined again before the write at the other end. IPv4
 * is cut and joined; the rest passes one by one.
 *
 * cc -O3 -march=native -o tunpipe tunpipe.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum { GSO_NONE = 0, GSO_TCPV4 = 1, GSO_UDP_L4 = 5, F_NEEDS_CSUM = 1 };
struct vnet { uint8_t flags, gso_type; uint16_t hdr_len, gso_size, csum_start, csum_offset; } __attribute__((packed));

enum { BATCH = 64, MAXSEG = 64, MAXAGG = 60000, RV = 8 };
static int tun, sk;
static struct mmsghdr mm[RV];
static struct iovec iv[RV];

static void die(const char *s) { perror(s); exit(1); }

/* ---- checksums ---- */
static inline uint64_t csum_add(const uint8_t *p, size_t n, uint64_t s)
{
	size_t i = 0;
	uint64_t a = 0, b = 0;
	for (; i + 8 <= n; i += 8) {           /* vectorised by the compiler */
		uint32_t x, y;
		memcpy(&x, p + i, 4); memcpy(&y, p + i + 4, 4);
		a += x; b += y;
	}
	s += a; s += b;
	for (; i + 2 <= n; i += 2) { uint16_t x; memcpy(&x, p + i, 2); s += x; }
	if (i < n) s += p[i];
	return s;
}
static inline uint16_t fold(uint64_t s)
{
	s = (s & 0xffffffff) + (s >> 32); s = (s & 0xffffffff) + (s >> 32);
	s = (s & 0xffff) + (s >> 16); s = (s & 0xffff) + (s >> 16);
	return (s & 0xffff) + (s >> 16);
}
static inline uint64_t pseudo(const uint8_t *ip, uint8_t proto, uint16_t l4len)
{
	return csum_add(ip + 12, 8, 0) + htons(proto) + htons(l4len);
}
static inline uint16_t g16(const uint8_t *p) { return p[0] << 8 | p[1]; }
static inline void p16(uint8_t *p, uint16_t v) { p[0] = v >> 8; p[1] = v; }
static inline uint32_t g32(const uint8_t *p) { return (uint32_t)g16(p) << 16 | g16(p + 2); }
static inline void p32(uint8_t *p, uint32_t v) { p16(p, v >> 16); p16(p + 2, v); }
static inline void ip_fix(uint8_t *ip, int ihl, uint16_t tot)
{
	p16(ip + 2, tot); ip[10] = ip[11] = 0;
	uint16_t c = ~fold(csum_add(ip, ihl, 0)); memcpy(ip + 10, &c, 2);
}

/* ---- gso: TUN -> socket ---- */
static uint8_t rbuf[10 + 70000], out[70000];
static size_t outlen, outseg; static int outn, outclosed;

static void out_flush(void)
{
	if (!outlen) return;
	struct iovec v = {out, outlen};
	char cb[CMSG_SPACE(2)] = {0};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
	if (outn > 1) {
		m.msg_control = cb; m.msg_controllen = sizeof cb;
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_UDP; c->cmsg_type = UDP_SEGMENT; c->cmsg_len = CMSG_LEN(2);
		uint16_t s = outseg; memcpy(CMSG_DATA(c), &s, 2);
	}
	if (sendmsg(sk, &m, 0) < 0 && errno != ECONNREFUSED) perror("sendmsg");
	outlen = outseg = outn = outclosed = 0;
}
/* a place for a datagram carrying n inner bytes; commit with out_commit */
static uint8_t *out_place(size_t n)
{
	if (outn && (outclosed || outn >= MAXSEG || outlen + n > MAXAGG || n > outseg)) out_flush();
	return out + outlen;
}
static void out_commit(size_t n)
{
	if (!outn) outseg = n; else if (n < outseg) outclosed = 1;
	outlen += n; outn++;
}
static void gso_up(void)
{
	for (int k = 0; k < BATCH; k++) {
		ssize_t n = read(tun, rbuf, sizeof rbuf);
		if (n <= 10) break;
		struct vnet h; memcpy(&h, rbuf, 10);
		uint8_t *p = rbuf + 10; n -= 10;
		if (h.gso_type == GSO_NONE) {
			if (h.flags & F_NEEDS_CSUM) {
				uint8_t *c = p + h.csum_start + h.csum_offset;
				uint16_t v = ~fold(csum_add(p + h.csum_start, n - h.csum_start, 0));
				memcpy(c, &v, 2);
			}
			uint8_t *d = out_place(n); memcpy(d, p, n); out_commit(n);
			continue;
		}
		int tcp = (h.gso_type & 0x7f) == GSO_TCPV4, ihl = (p[0] & 15) * 4;
		if ((!tcp && h.gso_type != GSO_UDP_L4) || p[0] >> 4 != 4) continue;
		int hl = ihl + (tcp ? (p[ihl + 12] >> 4) * 4 : 8), mss = h.gso_size;
		uint16_t id = g16(p + 4); uint32_t seq = tcp ? g32(p + ihl + 4) : 0; uint8_t fl = tcp ? p[ihl + 13] : 0;
		for (int off = hl, i = 0; off < n; off += mss, i++) {
			int pl = n - off < mss ? n - off : mss, last = off + mss >= n;
			uint8_t *d = out_place(hl + pl);
			memcpy(d, p, hl); memcpy(d + hl, p + off, pl);
			p16(d + 4, id + i); ip_fix(d, ihl, hl + pl);
			uint8_t *t = d + ihl; int l4 = hl - ihl + pl, co = tcp ? 16 : 6;
			if (tcp) { p32(t + 4, seq + (off - hl)); t[13] = (last ? fl : fl & ~0x09) & (i ? 0x7f : 0xff); }
			else p16(t + 4, l4);
			t[co] = t[co + 1] = 0;
			uint16_t c = ~fold(csum_add(t, l4, pseudo(d, tcp ? 6 : 17, l4)));
			if (!tcp && !c) c = 0xffff;
			memcpy(t + co, &c, 2);
			out_commit(hl + pl);
		}
	}
	out_flush();
}

/* ---- gso: socket -> TUN ---- */
static uint8_t agg[10 + 70000]; static size_t agglen, aggseg; static int aggn, agghl, aggtcp, aggclosed; static uint32_t aggseq;

static void agg_flush(void)
{
	if (!aggn) return;
	struct vnet h = {0};
	uint8_t *p = agg + 10, *t = p + 20;
	if (aggn > 1) {
		int co = aggtcp ? 16 : 6;
		ip_fix(p, 20, agglen);
		if (!aggtcp) p16(t + 4, agglen - 20);
		uint16_t c = fold(pseudo(p, aggtcp ? 6 : 17, agglen - 20)); memcpy(t + co, &c, 2);
		h = (struct vnet){F_NEEDS_CSUM, aggtcp ? GSO_TCPV4 : GSO_UDP_L4, agghl, aggseg, 20, co};
	}
	memcpy(agg, &h, 10);
	if (write(tun, agg, 10 + agglen) < 0 && errno != EAGAIN) perror("write tun");
	aggn = 0;
}
static void agg_add(const uint8_t *p, size_t n)
{
	const uint8_t *t = p + 20; int tcp = 0, hl = 0, ok = 0;
	if (n >= 28 && p[0] == 0x45 && g16(p + 2) == n && !(g16(p + 6) & 0x3fff)) {
		if (p[9] == 6 && n >= 40) { tcp = 1; hl = 20 + (t[12] >> 4) * 4; ok = (size_t)hl < n && (t[13] & ~8) == 0x10; }
		else if (p[9] == 17) { hl = 28; ok = n > 28 && g16(t + 4) == n - 20 && g16(t + 6); }
		if (ok) ok = fold(csum_add(t, n - 20, pseudo(p, p[9], n - 20))) == 0xffff;
	}
	size_t pl = n - hl;
	if (ok && aggn && !aggclosed && tcp == aggtcp && hl == agghl && pl <= aggseg && aggn < MAXSEG && agglen + pl < 65000) {
		uint8_t *a = agg + 10, *b = a + 20;
		int same = a[1] == p[1] && a[8] == p[8] && !memcmp(a + 12, p + 12, 8) && !memcmp(b, t, 4);
		if (same && tcp) same = g32(t + 4) == aggseq && !memcmp(b + 8, t + 8, 5) && !memcmp(b + 14, t + 14, 2) && !memcmp(b + 20, t + 20, hl - 40);
		if (same) {
			memcpy(a + agglen, p + hl, pl); agglen += pl; aggn++; aggseq += pl;
			if (tcp) b[13] |= t[13];
			if (pl < aggseg || (tcp && t[13] & 8)) aggclosed = 1;
			return;
		}
	}
	agg_flush();
	memcpy(agg + 10, p, n); agglen = n; aggn = 1; aggclosed = 1;
	if (ok) { aggtcp = tcp; agghl = hl; aggseg = pl; aggseq = tcp ? g32(t + 4) + pl : 0; aggclosed = tcp && (t[13] & 8); }
}
static uint8_t rx[RV][65536];
static void gso_down(void)
{
	static char cb[RV][64];
	for (int i = 0; i < RV; i++) {
		iv[i] = (struct iovec){rx[i], sizeof rx[i]};
		mm[i].msg_hdr = (struct msghdr){.msg_iov = &iv[i], .msg_iovlen = 1, .msg_control = cb[i], .msg_controllen = sizeof cb[i]};
	}
	int n = recvmmsg(sk, mm, RV, MSG_DONTWAIT, NULL);
	for (int i = 0; i < n; i++) {
		size_t len = mm[i].msg_len, seg = len;
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&mm[i].msg_hdr); c; c = CMSG_NXTHDR(&mm[i].msg_hdr, c))
			if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) { int s; memcpy(&s, CMSG_DATA(c), sizeof s); seg = s; }
		for (size_t o = 0; o < len; o += seg) {
			size_t m = len - o < seg ? len - o : seg;
			agg_add(rx[i] + o, m);
		}
	}
	agg_flush();
}

int main(int c, char **v)
{
	if (c != 5) { fprintf(stderr, "usage: tunpipe TUN LOCAL REMOTE PORT\n"); return 2; }
	int one = 1, big = 8 << 20;
	struct ifreq r = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
	strncpy(r.ifr_name, v[1], IFNAMSIZ - 1);
	if ((tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK)) < 0 || ioctl(tun, TUNSETIFF, &r)) die("tun");
	unsigned f = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
	int e = ioctl(tun, TUNSETOFFLOAD, f | TUN_F_USO4 | TUN_F_USO6);
	if (e && ioctl(tun, TUNSETOFFLOAD, f)) die("TUNSETOFFLOAD");
	sk = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(v[4]))}, b = a;
	inet_pton(AF_INET, v[2], &a.sin_addr); inet_pton(AF_INET, v[3], &b.sin_addr);
	setsockopt(sk, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big); setsockopt(sk, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big);
	if (bind(sk, (void *)&a, sizeof a) || connect(sk, (void *)&b, sizeof b)) die("bind/connect");
	if (setsockopt(sk, SOL_UDP, UDP_GRO, &one, sizeof one)) die("UDP_GRO");
	struct pollfd pf[2] = {{tun, POLLIN, 0}, {sk, POLLIN, 0}};
	for (;;) {
		if (poll(pf, 2, -1) < 0) die("poll");
		if (pf[0].revents) gso_up();
		if (pf[1].revents) gso_down();
	}
}
