package placement

import "math"

// mix spreads every bit over all others, one to one (the finalizer of splitmix64: Steele, Lea and Flood 2014,
// with Stafford's constants 13).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Bits of √½ and of the exponent of a float64 (IEEE 754).
const (
	halfRootBits = 0x3fe6a09e667f3bcd
	mantissaBits = 52
)

// negLog is -ln(u) for u = (2·⌊x/2¹²⌋ + 1) / 2⁵³, positive and finite for every x.
//
// It is written out because math.Log differs by machine. u is 2ᵏ·m with √½ ≤ m < √2, and ln(m) is the series
// 2·artanh(s) with s = (m-1)/(m+1), which at |s| < 0.172 is exact to the last bit or two after eleven terms. Each
// conversion forbids the compiler to fuse a multiplication with the addition that follows.
func negLog(x uint64) float64 {
	bits := math.Float64bits(float64(x>>12<<1 | 1)) // Below 2⁵³, so exact.
	shifted := bits - halfRootBits
	k := int64(shifted) >> mantissaBits
	m := math.Float64frombits(bits - uint64(k)<<mantissaBits)
	s := (m - 1) / (m + 1)
	z := float64(s * s)
	p := 1.0 / 21
	p = float64(p*z) + 1.0/19
	p = float64(p*z) + 1.0/17
	p = float64(p*z) + 1.0/15
	p = float64(p*z) + 1.0/13
	p = float64(p*z) + 1.0/11
	p = float64(p*z) + 1.0/9
	p = float64(p*z) + 1.0/7
	p = float64(p*z) + 1.0/5
	p = float64(p*z) + 1.0/3
	p = float64(p*z) + 1.0
	return float64(float64(53-k)*math.Ln2) - float64(float64(2*s)*p)
}
