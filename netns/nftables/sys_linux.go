package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Families.
const (
	Inet = Family(unix.NFPROTO_INET)
	IPv4 = Family(unix.NFPROTO_IPV4)
	IPv6 = Family(unix.NFPROTO_IPV6)
)

const (
	cmpEqual        = unix.NFT_CMP_EQ
	cmpNotEqual     = unix.NFT_CMP_NEQ
	metaNFProto     = unix.NFT_META_NFPROTO
	metaL4Proto     = unix.NFT_META_L4PROTO
	networkHeader   = unix.NFT_PAYLOAD_NETWORK_HEADER
	transportHeader = unix.NFT_PAYLOAD_TRANSPORT_HEADER

	// From linux/netfilter/nf_tables.h, where package unix has none.
	tableUserdata  = 6  // NFTA_TABLE_USERDATA
	chainUserdata  = 12 // NFTA_CHAIN_USERDATA
	portsSpecified = 2  // NF_NAT_RANGE_PROTO_SPECIFIED
	accept         = 1  // NF_ACCEPT
	nestedFlag     = unix.NLA_F_NESTED
	attrFlags      = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER

	udataComment = 0 // NFTNL_UDATA_{TABLE,CHAIN,RULE}_COMMENT of libnftnl

	replyLimit = 10      // seconds for the kernel to answer
	bufferSize = 1 << 16 // bytes; the kernel's dumps come in less
	dumpTries  = 8       // of a chain that changes while it is read
)

// What expressions are written with, by the kernel's names.
const (
	nftaBitwiseDreg      = unix.NFTA_BITWISE_DREG
	nftaBitwiseLen       = unix.NFTA_BITWISE_LEN
	nftaBitwiseMask      = unix.NFTA_BITWISE_MASK
	nftaBitwiseSreg      = unix.NFTA_BITWISE_SREG
	nftaBitwiseXor       = unix.NFTA_BITWISE_XOR
	nftaCmpData          = unix.NFTA_CMP_DATA
	nftaCmpOp            = unix.NFTA_CMP_OP
	nftaCmpSreg          = unix.NFTA_CMP_SREG
	nftaCounterBytes     = unix.NFTA_COUNTER_BYTES
	nftaCounterPackets   = unix.NFTA_COUNTER_PACKETS
	nftaDataValue        = unix.NFTA_DATA_VALUE
	nftaDataVerdict      = unix.NFTA_DATA_VERDICT
	nftaExprData         = unix.NFTA_EXPR_DATA
	nftaExprName         = unix.NFTA_EXPR_NAME
	nftaFibDreg          = unix.NFTA_FIB_DREG
	nftaFibFlags         = unix.NFTA_FIB_FLAGS
	nftaFibFDaddr        = unix.NFTA_FIB_F_DADDR
	nftaFibResult        = unix.NFTA_FIB_RESULT
	nftaImmediateData    = unix.NFTA_IMMEDIATE_DATA
	nftaImmediateDreg    = unix.NFTA_IMMEDIATE_DREG
	nftaListElem         = unix.NFTA_LIST_ELEM
	nftaMatchInfo        = unix.NFTA_MATCH_INFO
	nftaMatchName        = unix.NFTA_MATCH_NAME
	nftaMatchRev         = unix.NFTA_MATCH_REV
	nftaMetaDreg         = unix.NFTA_META_DREG
	nftaMetaKey          = unix.NFTA_META_KEY
	nftaNatFamily        = unix.NFTA_NAT_FAMILY
	nftaNatFlags         = unix.NFTA_NAT_FLAGS
	nftaNatRegAddrMin    = unix.NFTA_NAT_REG_ADDR_MIN
	nftaNatRegProtoMin   = unix.NFTA_NAT_REG_PROTO_MIN
	nftaNatType          = unix.NFTA_NAT_TYPE
	nftaPayloadBase      = unix.NFTA_PAYLOAD_BASE
	nftaPayloadDreg      = unix.NFTA_PAYLOAD_DREG
	nftaPayloadLen       = unix.NFTA_PAYLOAD_LEN
	nftaPayloadOffset    = unix.NFTA_PAYLOAD_OFFSET
	nftaTargetInfo       = unix.NFTA_TARGET_INFO
	nftaTargetName       = unix.NFTA_TARGET_NAME
	nftaTargetRev        = unix.NFTA_TARGET_REV
	nftaVerdictChain     = unix.NFTA_VERDICT_CHAIN
	nftaVerdictCode      = unix.NFTA_VERDICT_CODE
	nftFibResultAddrtype = unix.NFT_FIB_RESULT_ADDRTYPE
	nftGoto              = unix.NFT_GOTO
	nftJump              = unix.NFT_JUMP
	nftNatDnat           = unix.NFT_NAT_DNAT
	nftReg1              = unix.NFT_REG_1
	nftReg2              = unix.NFT_REG_2
	nftRegVerdict        = unix.NFT_REG_VERDICT
	nftReturn            = unix.NFT_RETURN
	rtnLocal             = unix.RTN_LOCAL
)

// A Conn is a socket of nf_tables. Close it.
type Conn struct {
	fd int
	in namespace // where it is, if it is to be kept
}

func open() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		err = os.NewSyscallError("socket", err)
		if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) {
			err = fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		return nil, fmt.Errorf("nftables: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: replyLimit})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("nftables: %w", os.NewSyscallError("bind", err))
	}
	return &Conn{fd: fd}, nil
}

func (c *Conn) end() { unix.Close(c.fd) }

// drain takes what nobody has read, and reports whether there is no more to come: the kernel answers
// while it is asked, and goes on with a list while it is read.
func (c *Conn) drain() bool {
	buf := make([]byte, 4096) // what is cut short is not read anyway
	for {
		n, _, err := unix.Recvfrom(c.fd, buf, unix.MSG_DONTWAIT)
		if err != nil || n == 0 {
			return err == unix.EAGAIN
		}
	}
}

// A namespace is a network namespace by its file's identity.
type namespace struct{ dev, ino uint64 }

// here is that of the calling thread.
func here() (namespace, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return namespace{}, fmt.Errorf("nftables: %w", os.NewSyscallError("stat", err))
	}
	return namespace{st.Dev, st.Ino}, nil
}

// Supported returns nil when the kernel has nf_tables and lets this process use it.
func (c *Conn) Supported() error {
	_, err := c.ask(message(unix.NFT_MSG_GETGEN, unix.NLM_F_REQUEST, 0, 0))
	return err
}

// HasChain tells whether there is a chain. A table that is not there has none.
func (c *Conn) HasChain(t Table, chain string) (bool, error) {
	_, err := c.ask(message(unix.NFT_MSG_GETCHAIN, unix.NLM_F_REQUEST, t.Family, 0,
		attr(unix.NFTA_CHAIN_TABLE, text(t.Name)), attr(unix.NFTA_CHAIN_NAME, text(chain))))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Rules reads a chain. One that is not there has none.
func (c *Conn) Rules(t Table, chain string) ([]Rule, error) {
	for range dumpTries {
		data, err := c.ask(message(unix.NFT_MSG_GETRULE, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, t.Family, 0,
			attr(unix.NFTA_RULE_TABLE, text(t.Name)), attr(unix.NFTA_RULE_CHAIN, text(chain))))
		if errors.Is(err, errChanged) {
			continue
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		var rules []Rule
		for _, d := range data {
			if r, in := readRule(d); in == chain { // an old kernel lists the whole table
				rules = append(rules, r)
			}
		}
		return rules, nil
	}
	return nil, fmt.Errorf("nftables: chain %s %s: %w", t.Name, chain, errChanged)
}

// errChanged says that what was read changed meanwhile.
var errChanged = errors.New("changed while it was read")

// ask sends one message and returns the payloads of its answers, behind the header of
// nfnetlink.
func (c *Conn) ask(m []byte) ([][]byte, error) {
	if err := unix.Sendto(c.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("nftables: %w", os.NewSyscallError("sendto", err))
	}
	dump := binary.NativeEndian.Uint16(m[6:])&unix.NLM_F_DUMP != 0
	var found [][]byte
	var changed bool
	for {
		all, err := c.receive()
		if err != nil {
			return nil, err
		}
		for _, r := range all {
			changed = changed || r.flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case r.kind == unix.NLMSG_ERROR || r.kind == unix.NLMSG_DONE:
				if err := r.err(); err != nil {
					return nil, fmt.Errorf("nftables: %w", err)
				}
				if changed {
					return nil, errChanged
				}
				return found, nil
			case len(r.data) >= 4:
				found = append(found, r.data[4:])
			}
			if !dump {
				return found, nil
			}
		}
	}
}

// A reply is a message from the kernel.
type reply struct {
	kind, flags uint16
	seq         uint32
	data        []byte
}

// err is the error that a reply of kind NLMSG_ERROR or NLMSG_DONE tells, or nil.
func (r reply) err() error {
	if len(r.data) < 4 {
		return nil
	}
	if code := int32(binary.NativeEndian.Uint32(r.data)); code < 0 {
		return unix.Errno(-code)
	}
	return nil
}

func (c *Conn) receive() ([]reply, error) {
	buf := make([]byte, bufferSize)
	n, _, err := unix.Recvfrom(c.fd, buf, 0)
	for errors.Is(err, unix.EINTR) {
		n, _, err = unix.Recvfrom(c.fd, buf, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("nftables: no answer: %w", os.NewSyscallError("recvfrom", err))
	}
	var all []reply
	for b := buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return nil, errors.New("nftables: an answer is cut short")
		}
		all = append(all, reply{
			kind: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
			seq: binary.NativeEndian.Uint32(b[8:]), data: b[unix.SizeofNlMsghdr:size],
		})
		b = b[min(align(size), len(b)):]
	}
	return all, nil
}

// A Batch is a list of changes, in their order. Its zero value has none.
type Batch struct {
	data []byte
	last int // where the last message begins
	n    uint32
}

// Empty tells whether there is nothing to do.
func (b *Batch) Empty() bool { return b.n == 0 }

func (b *Batch) add(kind, flags uint16, f Family, attrs ...[]byte) {
	b.n++
	b.last = len(b.data)
	b.data = append(b.data, message(kind, unix.NLM_F_REQUEST|flags, f, b.n, attrs...)...)
}

// AddTable makes a table, unless there is one.
func (b *Batch) AddTable(t Table, comment string) {
	attrs := [][]byte{attr(unix.NFTA_TABLE_NAME, text(t.Name)), attr(unix.NFTA_TABLE_FLAGS, be32(0))}
	if comment != "" {
		attrs = append(attrs, attr(tableUserdata, userdata(comment)))
	}
	b.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, t.Family, attrs...)
}

// AddChain makes a chain that is called by rules, unless there is one.
func (b *Batch) AddChain(t Table, chain, comment string) {
	attrs := [][]byte{attr(unix.NFTA_CHAIN_TABLE, text(t.Name)), attr(unix.NFTA_CHAIN_NAME, text(chain))}
	if comment != "" {
		attrs = append(attrs, attr(chainUserdata, userdata(comment)))
	}
	b.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, t.Family, attrs...)
}

// AddBase makes a chain of type nat that the kernel calls, unless there is one.
func (b *Batch) AddBase(t Table, chain string, h Hook) {
	b.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, t.Family,
		attr(unix.NFTA_CHAIN_TABLE, text(t.Name)), attr(unix.NFTA_CHAIN_NAME, text(chain)),
		nested(unix.NFTA_CHAIN_HOOK, attr(unix.NFTA_HOOK_HOOKNUM, be32(h.Number)), attr(unix.NFTA_HOOK_PRIORITY, be32(uint32(h.Priority)))),
		attr(unix.NFTA_CHAIN_POLICY, be32(accept)), attr(unix.NFTA_CHAIN_TYPE, text("nat")))
}

// AddRule adds a rule at the end of a chain. A comment of more than 253 bytes is cut.
func (b *Batch) AddRule(t Table, chain, comment string, exprs ...[]Expr) {
	var list []byte
	for _, part := range exprs {
		for _, e := range part {
			list = append(list, e...)
		}
	}
	attrs := [][]byte{
		attr(unix.NFTA_RULE_TABLE, text(t.Name)), attr(unix.NFTA_RULE_CHAIN, text(chain)),
		nested(unix.NFTA_RULE_EXPRESSIONS, list),
	}
	if comment != "" {
		attrs = append(attrs, attr(unix.NFTA_RULE_USERDATA, userdata(comment)))
	}
	b.add(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, t.Family, attrs...)
}

// DeleteRule deletes a rule that is there.
func (b *Batch) DeleteRule(t Table, chain string, handle uint64) {
	b.add(unix.NFT_MSG_DELRULE, 0, t.Family, attr(unix.NFTA_RULE_TABLE, text(t.Name)),
		attr(unix.NFTA_RULE_CHAIN, text(chain)), attr(unix.NFTA_RULE_HANDLE, binary.BigEndian.AppendUint64(nil, handle)))
}

// Flush deletes the rules of a chain that is there, or made earlier in the batch.
func (b *Batch) Flush(t Table, chain string) {
	b.add(unix.NFT_MSG_DELRULE, 0, t.Family, attr(unix.NFTA_RULE_TABLE, text(t.Name)), attr(unix.NFTA_RULE_CHAIN, text(chain)))
}

// DeleteChain deletes a chain that is there, empty, and called by no rule.
func (b *Batch) DeleteChain(t Table, chain string) {
	b.add(unix.NFT_MSG_DELCHAIN, 0, t.Family, attr(unix.NFTA_CHAIN_TABLE, text(t.Name)), attr(unix.NFTA_CHAIN_NAME, text(chain)))
}

// Commit makes all changes of b, or none. The error is the kernel's: fs.ErrNotExist
// when something that is to be changed is not there. After an error c is only to be closed.
func (c *Conn) Commit(b *Batch) error {
	if b.Empty() {
		return nil
	}
	begin := edge(unix.NFNL_MSG_BATCH_BEGIN, 0)
	all := append(begin, b.data...)
	flags := all[len(begin)+b.last+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
	all = append(all, edge(unix.NFNL_MSG_BATCH_END, b.n+1)...)
	size := max(2*len(all), bufferSize)
	err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size)
	if err == unix.EPERM { // of a user namespace: as much as there may be
		err = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, size)
	}
	if err != nil {
		return fmt.Errorf("nftables: %w", os.NewSyscallError("setsockopt", err))
	}
	if err := unix.Sendto(c.fd, all, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("nftables: %w", os.NewSyscallError("sendto", err))
	}
	for {
		replies, err := c.receive()
		if err != nil {
			return err
		}
		for _, r := range replies {
			if r.kind != unix.NLMSG_ERROR {
				continue
			}
			if err := r.err(); err != nil {
				return fmt.Errorf("nftables: change %d of %d: %w", r.seq, b.n, err)
			}
			if r.seq == b.n {
				return nil
			}
		}
	}
}

// edge is the begin or the end of a batch.
func edge(kind uint16, seq uint32) []byte {
	m := message(0, unix.NLM_F_REQUEST, 0, seq)
	binary.NativeEndian.PutUint16(m[4:], kind)
	binary.BigEndian.PutUint16(m[unix.SizeofNlMsghdr+2:], unix.NFNL_SUBSYS_NFTABLES)
	return m
}

// message is one message of nf_tables.
func message(kind, flags uint16, f Family, seq uint32, attrs ...[]byte) []byte {
	m := make([]byte, unix.SizeofNlMsghdr, 256)
	m = append(m, byte(f), unix.NFNETLINK_V0, 0, 0)
	for _, a := range attrs {
		m = append(m, a...)
	}
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], unix.NFNL_SUBSYS_NFTABLES<<8|kind)
	binary.NativeEndian.PutUint16(m[6:], flags)
	binary.NativeEndian.PutUint32(m[8:], seq)
	return m
}

// readRule reads a rule, and the chain that it is in.
func readRule(b []byte) (r Rule, chain string) {
	each(b, func(kind uint16, data []byte) {
		switch kind {
		case unix.NFTA_RULE_CHAIN:
			chain = untext(data)
		case unix.NFTA_RULE_HANDLE:
			if len(data) >= 8 {
				r.Handle = binary.BigEndian.Uint64(data)
			}
		case unix.NFTA_RULE_EXPRESSIONS:
			each(data, func(_ uint16, e []byte) {
				if to := target(e); to != "" {
					r.Target = to
				}
			})
		case unix.NFTA_RULE_USERDATA:
			for len(data) >= 2 && len(data) >= 2+int(data[1]) {
				if data[0] == udataComment {
					r.Comment = untext(data[2 : 2+int(data[1])])
				}
				data = data[2+int(data[1]):]
			}
		}
	})
	return r, chain
}

// target is the chain that an expression sends packets to, or "".
func target(e []byte) (chain string) {
	within := func(wanted uint16, inner func(data []byte)) func(uint16, []byte) {
		return func(kind uint16, data []byte) {
			if kind == wanted {
				inner(data)
			}
		}
	}
	verdict := func(data []byte) {
		each(data, within(unix.NFTA_VERDICT_CHAIN, func(data []byte) { chain = untext(data) }))
	}
	each(e, within(unix.NFTA_EXPR_DATA, func(data []byte) {
		each(data, within(unix.NFTA_IMMEDIATE_DATA, func(data []byte) {
			each(data, within(unix.NFTA_DATA_VERDICT, verdict))
		}))
	}))
	return chain
}
