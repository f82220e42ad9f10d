package placement_test

// vectors are those of docs/routing-table.md, for cells a, b, c, d, e with weights 100, 100, 50, 0, 300.
var vectors = map[string]struct {
	hash  uint64
	score string
	cells string
}{
	"shop.example":          {0xd13f03440d8baa9b, "0.0013017905339", "e b a c"},
	"www.shop.example":      {0x573034a2690d4cc2, "0.00187066812183", "a b c e"},
	"xn--bcher-kva.example": {0x5fc36e2fc115118b, "0.00020674934594", "e a b c"},
	"192.0.2.1":             {0xb745e3600a221c61, "0.000224981855095", "e a c b"},
	"2001:db8::1":           {0x26c33ef1c67e1031, "0.0039466505804", "e b c a"},
	"a.example":             {0x6c888a4731807849, "0.000109354034978", "b e c a"},
	"b.example":             {0xdce82e5b48528236, "0.00161022998324", "b e a c"},
	"localhost":             {0x08c94614ac84e57c, "0.00180786394972", "e c a b"},
}
