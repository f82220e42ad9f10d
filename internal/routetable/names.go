package routetable

// Where the table of a fleet is published: entries of ConfigMaps in its namespace.
const (
	// RoutesEntry, of binaryData, has the signed table.
	RoutesEntry = "routes"
	// KeysEntry has the public keys.
	KeysEntry = "keys.pem"
)

// RoutesName is the ConfigMap of a fleet's signed table.
func RoutesName(fleet string) string { return fleet + "-routes" }

// KeysName is the ConfigMap of a fleet's public keys.
func KeysName(fleet string) string { return fleet + "-routes-keys" }
