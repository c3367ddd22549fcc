package inflate

import "encoding/binary"

func load64(b []byte, i int) uint64 { return binary.LittleEndian.Uint64(b[i : i+8]) }

func store64(b []byte, i int, v uint64) { binary.LittleEndian.PutUint64(b[i:i+8], v) }

func store8(b []byte, i int, v byte) { b[i] = v }

func copy16(b []byte, to, from int) { copy(b[to:to+16], b[from:from+16]) }
