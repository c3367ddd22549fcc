package nftables

import (
	"encoding/binary"
	"net/netip"
)

// An Expr is a part of a rule, as the kernel takes it.
type Expr []byte

func expr(name string, attrs ...[]byte) Expr {
	return nested(nftaListElem, attr(nftaExprName, text(name)), nested(nftaExprData, attrs...))
}

func value(data []byte) []byte { return attr(nftaDataValue, data) }

func payload(base, offset, size uint32) Expr {
	return expr("payload", attr(nftaPayloadDreg, be32(nftReg1)), attr(nftaPayloadBase, be32(base)),
		attr(nftaPayloadOffset, be32(offset)), attr(nftaPayloadLen, be32(size)))
}

func compare(op uint32, with []byte) Expr {
	return expr("cmp", attr(nftaCmpSreg, be32(nftReg1)), attr(nftaCmpOp, be32(op)), nested(nftaCmpData, value(with)))
}

// mask keeps the first bits of a number of bytes.
func mask(bits, size int) Expr {
	m := make([]byte, size)
	for i := range bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return expr("bitwise", attr(nftaBitwiseSreg, be32(nftReg1)), attr(nftaBitwiseDreg, be32(nftReg1)),
		attr(nftaBitwiseLen, be32(uint32(size))), nested(nftaBitwiseMask, value(m)), nested(nftaBitwiseXor, value(make([]byte, size))))
}

func meta(key uint32) Expr {
	return expr("meta", attr(nftaMetaDreg, be32(nftReg1)), attr(nftaMetaKey, be32(key)))
}

func immediate(reg uint32, data []byte) Expr {
	return expr("immediate", attr(nftaImmediateDreg, be32(reg)), nested(nftaImmediateData, data))
}

func verdict(code int32, chain string) []Expr {
	attrs := [][]byte{attr(nftaVerdictCode, be32(uint32(code)))}
	if chain != "" {
		attrs = append(attrs, attr(nftaVerdictChain, text(chain)))
	}
	return []Expr{immediate(nftRegVerdict, nested(nftaDataVerdict, attrs...))}
}

// Jump has packets pass another chain.
func Jump(chain string) []Expr { return verdict(nftJump, chain) }

// Goto has packets go on in another chain.
func Goto(chain string) []Expr { return verdict(nftGoto, chain) }

// Return ends the chain.
func Return() []Expr { return verdict(nftReturn, "") }

// Accept ends all chains of the hook.
func Accept() []Expr { return verdict(accept, "") }

// Counter counts packets, as each rule of iptables does.
func Counter() []Expr {
	zero := make([]byte, 8)
	return []Expr{expr("counter", attr(nftaCounterBytes, zero), attr(nftaCounterPackets, zero))}
}

// Local is for packets to an address of the host.
func Local() []Expr {
	return []Expr{
		expr("fib", attr(nftaFibDreg, be32(nftReg1)), attr(nftaFibResult, be32(nftFibResultAddrtype)),
			attr(nftaFibFlags, be32(nftaFibFDaddr))),
		compare(cmpEqual, binary.NativeEndian.AppendUint32(nil, rtnLocal)),
	}
}

// Masquerade gives packets the address of the interface that they leave by.
func Masquerade() []Expr { return []Expr{expr("masq")} }

// XtMasquerade is the same as iptables writes it: its extension MASQUERADE, revision 0.
func XtMasquerade(f Family) []Expr {
	info := make([]byte, 40) // struct nf_nat_range
	if f == IPv4 {
		info = make([]byte, 24) // struct nf_nat_ipv4_multi_range_compat, of one range
		binary.NativeEndian.PutUint32(info, 1)
	}
	return []Expr{expr("target", attr(nftaTargetName, text("MASQUERADE")), attr(nftaTargetRev, be32(0)), attr(nftaTargetInfo, info))}
}

// XtComment says what a rule is for as iptables does it: by its extension comment, of at most
// 255 bytes.
func XtComment(comment string) []Expr {
	info := make([]byte, 256) // struct xt_comment_info
	copy(info[:len(info)-1], comment)
	return []Expr{expr("match", attr(nftaMatchName, text("comment")), attr(nftaMatchRev, be32(0)), attr(nftaMatchInfo, info))}
}

// DNAT sends packets to another address.
func DNAT(to netip.AddrPort) []Expr {
	return []Expr{
		immediate(nftReg1, value(to.Addr().AsSlice())),
		immediate(nftReg2, value(binary.BigEndian.AppendUint16(nil, to.Port()))),
		expr("nat", attr(nftaNatType, be32(nftNatDnat)), attr(nftaNatFamily, be32(uint32(FamilyOf(to.Addr())))),
			attr(nftaNatRegAddrMin, be32(nftReg1)), attr(nftaNatRegProtoMin, be32(nftReg2)),
			attr(nftaNatFlags, be32(portsSpecified))),
	}
}
