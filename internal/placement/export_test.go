package placement

// What only tests look at.
var (
	NegLog = negLog
	Mix    = mix
)
