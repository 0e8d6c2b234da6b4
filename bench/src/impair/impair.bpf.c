// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Loses multicast UDP packets, or all IP packets, on their way out of an interface: at random, in bursts, or both. Whether a packet
 * is lost depends only on the seed and on how many came before it, so that a run can be repeated.
 *
 * A test's tool: it copies headers instead of reading them in place, which works however the packet is laid out.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Set by user space before load. */
struct impair_config {
	__u64 seed;
	/* Of 2^32 packets, this many are lost at random. */
	__u64 loss_of_2_32;
	/* A burst of this many packets is lost, 0 for none, */
	__u64 burst_packets;
	/* after this many, */
	__u64 burst_after_packets;
	/* and again every so many; 0 for once only. */
	__u64 burst_every_packets;
	__u16 first_port;
	__u16 port_count;
	/* Not 0: every IP packet can be lost, whatever it carries. */
	__u32 everything;
};

const volatile struct impair_config config = {};

struct impair_counts {
	__u64 matched;
	__u64 lost_at_random;
	__u64 lost_in_bursts;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct impair_counts);
} counts SEC(".maps");

static __always_inline bool is_ip(struct __sk_buff *packet)
{
	return packet->protocol == bpf_htons(ETH_P_IP) || packet->protocol == bpf_htons(ETH_P_IPV6);
}

static __always_inline bool is_multicast_feed(struct __sk_buff *packet)
{
	struct udphdr udp;
	__u32 udp_offset;

	if (packet->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes_relative(packet, 0, &ip, sizeof(ip), BPF_HDR_START_NET))
			return false;
		/* 224.0.0.0/4, and no later fragment, which has no ports */
		if (ip.protocol != IPPROTO_UDP || (bpf_ntohl(ip.daddr) >> 28) != 14 || ip.frag_off & bpf_htons(0x1fff))
			return false;
		udp_offset = ip.ihl * 4;
	} else if (packet->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes_relative(packet, 0, &ip, sizeof(ip), BPF_HDR_START_NET))
			return false;
		if (ip.nexthdr != IPPROTO_UDP || ip.daddr.in6_u.u6_addr8[0] != 0xff)
			return false;
		udp_offset = sizeof(ip);
	} else {
		return false;
	}
	if (bpf_skb_load_bytes_relative(packet, udp_offset, &udp, sizeof(udp), BPF_HDR_START_NET))
		return false;
	return (__u16)(bpf_ntohs(udp.dest) - config.first_port) < config.port_count;
}

/* SplitMix64 (Steele, Lea, Flood 2014) at position `index` of the sequence that `config.seed` starts. */
static __always_inline __u64 random_at(__u64 index)
{
	__u64 mixed = config.seed + (index + 1) * 0x9e3779b97f4a7c15;

	mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
	mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
	return mixed ^ (mixed >> 31);
}

static __always_inline bool is_in_burst(__u64 index)
{
	__u64 since;

	if (index < config.burst_after_packets)
		return false;
	since = index - config.burst_after_packets;
	if (config.burst_every_packets)
		since %= config.burst_every_packets;
	return since < config.burst_packets;
}

SEC("tcx/egress")
int discus_impair(struct __sk_buff *packet)
{
	__u32 key = 0;
	struct impair_counts *count;
	/* A packet that the device will cut into several (GSO) is lost as one and counts as several. */
	__u64 packets = packet->gso_segs > 1 ? packet->gso_segs : 1;
	__u64 index;

	if (config.everything ? !is_ip(packet) : !is_multicast_feed(packet))
		return TC_ACT_UNSPEC;
	count = bpf_map_lookup_elem(&counts, &key);
	if (!count)
		return TC_ACT_UNSPEC;

	index = __sync_fetch_and_add(&count->matched, packets);
	if (is_in_burst(index)) {
		__sync_fetch_and_add(&count->lost_in_bursts, packets);
		return TC_ACT_SHOT;
	}
	if (random_at(index) >> 32 < config.loss_of_2_32) {
		__sync_fetch_and_add(&count->lost_at_random, packets);
		return TC_ACT_SHOT;
	}
	/* What other programs and filters on the interface say. */
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
