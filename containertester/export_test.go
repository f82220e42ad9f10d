package tester

// LeftBehind counts, and removes, what tests that were killed have left.
func LeftBehind(t TB) int {
	e, err := theEngine()
	if err != nil {
		t.Fatalf("%v", err)
	}
	containers, networks := e.left(t.Context())
	e.sweep(t.Context())
	return len(containers) + len(networks)
}

// IsRemote says whether mocks are reached by a relay.
func IsRemote(t TB) bool {
	e, err := theEngine()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return e.relay != nil
}

var (
	ChooseVersion = chooseVersion
	IsLeft        = isLeft
	Owner         = owner
)
