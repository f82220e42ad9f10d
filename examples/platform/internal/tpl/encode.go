package tpl

import (
	"encoding/binary"
	"errors"
)

// errCorrupt says that bytes are no compiled template.
var errCorrupt = errors.New("no compiled template")

// Encode returns the program as bytes.
func (p *Program) Encode() []byte { return encodeNodes(nil, p.nodes) }

func encodeNodes(out []byte, nodes []node) []byte {
	out = binary.AppendUvarint(out, uint64(len(nodes)))
	for _, n := range nodes {
		not := byte(0)
		if n.not {
			not = 1
		}
		out = append(out, byte(n.kind), not)
		out = encodeString(out, n.text)
		if n.kind == nodeEach {
			out = encodeString(out, n.variable)
		}
		if n.kind == nodeEach || n.kind == nodeIf {
			out = encodeNodes(out, n.body)
			out = encodeNodes(out, n.other)
		}
	}
	return out
}

func encodeString(out []byte, s string) []byte {
	return append(binary.AppendUvarint(out, uint64(len(s))), s...)
}

// Decode reads what Encode wrote. Bytes from anywhere are safe to give it.
func Decode(content []byte) (*Program, error) {
	d := &decoder{rest: string(content)}
	nodes := d.nodes(0)
	if d.failed || d.rest != "" {
		return nil, errCorrupt
	}
	return &Program{nodes}, nil
}

type decoder struct {
	rest   string
	failed bool
}

func (d *decoder) nodes(depth int) []node {
	count := d.number()
	// Each node takes at least three bytes, so a larger count cannot be true.
	if d.failed || depth > maxDepth || count > uint64(len(d.rest)/3) {
		d.failed = d.failed || count > 0
		return nil
	}
	nodes := make([]node, 0, count)
	for range count {
		if d.failed || len(d.rest) < 2 {
			d.failed = true
			return nil
		}
		n := node{kind: nodeKind(d.rest[0]), not: d.rest[1] == 1}
		d.rest = d.rest[2:]
		n.text = d.text()
		switch n.kind {
		case nodeText, nodeValue:
		case nodeEach:
			n.variable = d.text()
			fallthrough
		case nodeIf:
			n.body = d.nodes(depth + 1)
			n.other = d.nodes(depth + 1)
		default:
			d.failed = true
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func (d *decoder) number() uint64 {
	n, size := binary.Uvarint([]byte(d.rest[:min(len(d.rest), binary.MaxVarintLen64)]))
	if size <= 0 {
		d.failed = true
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

func (d *decoder) text() string {
	length := d.number()
	if d.failed || length > uint64(len(d.rest)) {
		d.failed = true
		return ""
	}
	text := d.rest[:length]
	d.rest = d.rest[length:]
	return text
}
