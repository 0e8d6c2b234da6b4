// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * XDP filter for a multicast (or any UDP) feed whose packets carry an id at a fixed offset.
 *
 * It decides with one load per packet whether somebody on this machine still wants what the packet
 * carries. Only packets that prove themselves to be the feed's (port and match bytes) are ever
 * dropped; everything else goes to the kernel's stack untouched.
 *
 *   packet                                           verdict             action
 *   not UDP to our ports, a fragment, unparsable     foreign             PASS
 *   our port, but other match bytes or too short     other session       PASS
 *     to hold them
 *   match bytes right, but shorter than its header   malformed           DROP
 *   id outside the want set                          id out of range     DROP
 *   want bit clear                                   unwanted            DROP
 *   want bit set                                     wanted, redirected  REDIRECT to the AF_XDP socket of the queue
 *                                                    wanted, passed      PASS, where there is none
 *
 * A feed may consist of streams, of which each numbers its packets. Then a packet with the id `mark_id` is a
 * mark: whoever reads it learns how many packets of its stream ended here before it, and so which numbers are
 * missing because they were lost. Only here are both known at the same moment.
 *
 * User space fills `config` before load; the kernel then treats it as constants and removes the
 * branches that cannot be taken. It shares the other maps by mmap, without system calls.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/*
 * <linux/if_ether.h> declares its header packed, so that the compiler reads the type byte by byte;
 * user space has no VLAN header.
 */
struct ethernet_header {
	__u8 destination[ETH_ALEN];
	__u8 source[ETH_ALEN];
	__be16 type;
};

struct vlan_header {
	__be16 tag_control;
	__be16 type;
};

/* Provider tag outside, customer tag inside (802.1ad). A third tag is not ours to understand. */
#define VLAN_TAGS_MAX 2

/* IPv4 fragment offset (13 bits) and the more-fragments flag: any of them set means a fragment. */
#define IPV4_FRAGMENT_BITS 0x3fff

/* Receive queues that can have a socket; an empty slot costs 8 bytes. */
#define QUEUES_MAX 1024

/*
 * 4 MiB of bits, the largest array value that all kernels since 5.18 take.
 */
#define ID_COUNT_MAX (1 << 25)

/*
 * Rows of counters, 64 KiB. CPUs this far apart share a row and, in the rare event that both are in the same
 * instruction, lose a count; a power of two, so that one AND satisfies the verifier.
 */
#define CPU_COUNT_MAX 1024

/* Streams that are counted apart; a power of two. */
#define STREAMS_MAX 64

/*
 * Set by user space before load. Offsets count from the start of the UDP payload.
 * `match_value` and `match_mask` hold the bytes in the order of the packet, so that comparing them
 * needs no byte swap; `match_value` has no bit outside `match_mask`.
 */
struct filter_config {
	__u64 match_value;
	__u64 match_mask;
	__u32 id_count;
	__u16 first_port;
	__u16 port_count;
	__u16 match_offset;
	__u16 id_offset;
	__u16 payload_min_bytes;
	__u8 id_width_bytes;
	__u8 redirect;
	__u32 mark_id;
	__u16 stream_offset;
	__u16 sequence_offset;
	__u8 has_streams;
};

const volatile struct filter_config config = {};

/* A row per CPU and a cache line per row, so that CPUs never write to one line. */
struct counter_row {
	__u64 foreign;
	__u64 other_session;
	__u64 malformed;
	__u64 id_out_of_range;
	__u64 unwanted;
	__u64 wanted_passed;
	__u64 wanted_redirected;
	__u64 unused;
} __attribute__((aligned(64)));

/*
 * A stream, a cache line each. Its packets have one 5-tuple, hence one receive queue, on which one CPU works at a time.
 */
struct stream_row {
	/* Packets that ended here because nobody wants their id. */
	__u64 unwanted;
	/* At the last mark: its sequence number in the upper half, the lower half of `unwanted` in the lower; one store, so that they belong together. */
	__u64 mark;
	__u64 unused[6];
} __attribute__((aligned(64)));

/*
 * Sections of their own, so that each is a map of its own that user space maps into its memory. The program
 * addresses them directly: a map lookup would cost more instructions than the test of a bit.
 *
 * The want set: bit `id % 64` of word `id / 64`. User space cuts it to what `id_count` needs before load.
 */
__u64 wanted[ID_COUNT_MAX / 64] SEC(".bss.wanted");
struct counter_row counters[CPU_COUNT_MAX] SEC(".bss.counters");
struct stream_row streams[STREAMS_MAX] SEC(".bss.streams");

/* Receive queue to AF_XDP socket. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, QUEUES_MAX);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} sockets SEC(".maps");

#define COUNT(verdict) (counters[bpf_get_smp_processor_id() & (CPU_COUNT_MAX - 1)].verdict++)

/*
 * The UDP header of a packet to one of our ports, or NULL. Most traffic of a machine that is not ours
 * leaves here, so the tests come in the order in which they rule out the most.
 */
static __always_inline struct udphdr *our_datagram(void *data, void *end)
{
	struct ethernet_header *ethernet = data;
	void *network = ethernet + 1;
	struct udphdr *udp;
	__be16 type;

	if (network > end)
		return NULL;
	type = ethernet->type;

#pragma unroll
	for (int tag = 0; tag < VLAN_TAGS_MAX; tag++) {
		struct vlan_header *vlan = network;

		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			break;
		network = vlan + 1;
		if (network > end)
			return NULL;
		type = vlan->type;
	}

	if (type == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = network;

		if ((void *)(ip + 1) > end)
			return NULL;
		if (ip->protocol != IPPROTO_UDP)
			return NULL;
		if (ip->version != 4 || ip->ihl < 5)
			return NULL;
		if (ip->frag_off & bpf_htons(IPV4_FRAGMENT_BITS))
			return NULL;
		udp = network + ip->ihl * 4;
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = network;

		if ((void *)(ip + 1) > end)
			return NULL;
		/* An extension header, a fragment header among them, is another next header: passed. */
		if (ip->nexthdr != IPPROTO_UDP || ip->version != 6)
			return NULL;
		udp = (void *)(ip + 1);
	} else {
		return NULL;
	}

	if ((void *)(udp + 1) > end)
		return NULL;
	/* Unsigned wrap makes one comparison of the two ends of the range. */
	if ((__u16)(bpf_ntohs(udp->dest) - config.first_port) >= config.port_count)
		return NULL;
	return udp;
}

/*
 * The packet's id, or -1 where the packet ends before it. The width is a constant to the verifier,
 * which keeps one of the three cases.
 */
static __always_inline __s64 id_of(void *field, void *end)
{
	switch (config.id_width_bytes) {
	case 1:
		return field + 1 > end ? -1 : (__s64)*(__u8 *)field;
	case 2:
		return field + 2 > end ? -1 : (__s64)bpf_ntohs(*(__be16 *)field);
	default:
		return field + 4 > end ? -1 : (__s64)bpf_ntohl(*(__be32 *)field);
	}
}

/* The row of the packet's stream, or NULL where it names none that is counted. */
static __always_inline struct stream_row *stream_of(void *payload, void *end)
{
	__be16 *field = payload + config.stream_offset;
	__u16 stream;

	if ((void *)(field + 1) > end)
		return NULL;
	stream = bpf_ntohs(*field);
	if (stream >= STREAMS_MAX)
		return NULL;
	return &streams[stream & (STREAMS_MAX - 1)];
}

static __always_inline void note_unwanted(void *payload, void *end)
{
	struct stream_row *row = stream_of(payload, end);

	if (row)
		row->unwanted++;
}

static __always_inline void note_mark(void *payload, void *end)
{
	struct stream_row *row = stream_of(payload, end);
	__be32 *sequence = payload + config.sequence_offset;

	if (row && (void *)(sequence + 1) <= end)
		*(volatile __u64 *)&row->mark = (__u64)bpf_ntohl(*sequence) << 32 | (__u32)row->unwanted;
}

SEC("xdp.frags")
int discus_filter(struct xdp_md *context)
{
	void *data = (void *)(long)context->data;
	void *end = (void *)(long)context->data_end;
	struct udphdr *udp = our_datagram(data, end);
	void *payload;
	__u64 index;
	__s64 id;

	if (!udp) {
		COUNT(foreign);
		return XDP_PASS;
	}
	payload = udp + 1;

	/* A mask of zero says that everything on these ports is the feed's. */
	if (config.match_mask) {
		__u64 *match = payload + config.match_offset;

		if ((void *)(match + 1) > end || (*match & config.match_mask) != config.match_value) {
			COUNT(other_session);
			return XDP_PASS;
		}
	}

	/* The length that UDP claims counts too, because Ethernet pads short packets. */
	id = id_of(payload + config.id_offset, end);
	if (id < 0 || bpf_ntohs(udp->len) < sizeof(*udp) + config.payload_min_bytes) {
		COUNT(malformed);
		return XDP_DROP;
	}
	if (id >= config.id_count) {
		COUNT(id_out_of_range);
		return XDP_DROP;
	}
	/*
	 * In bounds because the verifier knows `id_count`. Left alone, the compiler turns the two shifts of the
	 * address into one shift and a mask, after which the verifier no longer knows the exact bound.
	 */
	index = id / 64;
	asm volatile("" : "+r"(index));
	if (!(wanted[index] >> (id % 64) & 1)) {
		COUNT(unwanted);
		if (config.has_streams)
			note_unwanted(payload, end);
		return XDP_DROP;
	}

	if (config.has_streams && id == config.mark_id)
		note_mark(payload, end);
	/* The flag is the verdict for a queue without a socket. */
	if (config.redirect && bpf_redirect_map(&sockets, context->rx_queue_index, XDP_PASS) == XDP_REDIRECT) {
		COUNT(wanted_redirected);
		return XDP_REDIRECT;
	}
	COUNT(wanted_passed);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
