package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// LabelFleet is on every ShopSet of a fleet: the name of the Fleet.
	LabelFleet = "shopset.dev/fleet"
	// AnnotationDrainedBy on a ShopSet says who set traffic: Drain. The operator undoes only what it did itself.
	AnnotationDrainedBy = "shopset.dev/drained-by"
	// DrainedByFleet is the value of AnnotationDrainedBy for a cell that is on its way out of the fleet.
	DrainedByFleet = "fleet"
)

// Fleet is the ShopSets that serve the same shops: how many, who of them serves which host, and the routing table that says
// so.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Cells",type=string,JSONPath=`.status.summary`
// +kubebuilder:printcolumn:name="Largest",type=string,JSONPath=`.status.blastRadius.largestShare`
// +kubebuilder:printcolumn:name="Table",type=integer,JSONPath=`.status.table.version`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 36",message="metadata.name is longer than 36 characters; cells are named after it, and a ShopSet's name ends at 40"
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",message="metadata.name must start with a letter and hold only a-z, 0-9 and '-', because ShopSets are named after it"
type Fleet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what the fleet shall be.
	Spec FleetSpec `json:"spec"`
	// Status is what the operator sees.
	Status FleetStatus `json:"status,omitempty"`
}

// FleetList is a list of Fleets.
//
// +kubebuilder:object:root=true
type FleetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Fleet `json:"items"`
}

// FleetSpec describes a fleet.
//
// +kubebuilder:validation:XValidation:rule="has(self.cells) != has(self.namedCells)",message="a fleet has either cells, a number, or namedCells, a list; set one of the two"
// +kubebuilder:validation:XValidation:rule="!has(self.placement) || !has(self.placement.shardSize) || self.placement.shardSize <= (has(self.cells) ? self.cells : size(self.namedCells))",message="placement.shardSize takes at least as many cells as it says, and there are fewer; add cells or lower shardSize",fieldPath=".placement"
// +kubebuilder:validation:XValidation:rule="!has(self.placement) || !has(self.placement.maxShare) || self.placement.maxShare * (has(self.cells) ? self.cells : size(self.namedCells)) >= 100",message="placement.maxShare (percent) takes at least 100/maxShare cells, rounded up, and there are fewer; add cells or raise maxShare",fieldPath=".placement"
// +kubebuilder:validation:XValidation:rule="!has(self.template.spec.traffic) || self.template.spec.traffic == 'Active'",message="template.spec.traffic: Drain would drain every cell at once; drain single cells, by traffic of namedCells or by kubectl shopset drain CELL",fieldPath=".template"
type FleetSpec struct {
	// Template of every cell.
	Template FleetTemplate `json:"template"`

	// Cells is how many there are. They are called FLEET-1, FLEET-2 and so on.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=256
	// +optional
	Cells *int32 `json:"cells,omitempty"`

	// NamedCells are the cells, each with its name and what differs from the template.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	// +listType=map
	// +listMapKey=name
	// +optional
	NamedCells []NamedCell `json:"namedCells,omitempty"`

	// Placement says which cells serve which hosts.
	//
	// +optional
	Placement *FleetPlacement `json:"placement,omitempty"`

	// Update says how a change of the template goes over the cells.
	//
	// +kubebuilder:default={maxUnavailable: 1}
	// +optional
	Update *FleetUpdate `json:"update,omitempty"`
}

// FleetTemplate is what the ShopSets of a fleet are made from.
type FleetTemplate struct {
	// Metadata of the ShopSets.
	//
	// +optional
	Metadata TemplateMetadata `json:"metadata,omitempty"`
	// Spec of the ShopSets. Traffic is not part of it: that is a matter of each cell.
	Spec ShopSetSpec `json:"spec"`
}

// TemplateMetadata is added to that of each ShopSet.
type TemplateMetadata struct {
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	Labels map[string]string `json:"labels,omitempty"`
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}

// NamedCell is one cell of a fleet whose cells have names.
type NamedCell struct {
	// Name of the ShopSet.
	//
	// +kubebuilder:validation:MaxLength=40
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Weight is the cell's part of the hosts, in relation to those of the others; 100 if nothing is said.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000000
	// +optional
	Weight *int32 `json:"weight,omitempty"`
	// Labels of the ShopSet, besides those of the template.
	//
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	Labels map[string]string `json:"labels,omitempty"`
	// Traffic fixes the cell's traffic here. Without it, it is the ShopSet's own: what somebody sets there, by
	// kubectl shopset drain, stays.
	//
	// +optional
	Traffic Traffic `json:"traffic,omitempty"`
	// Values of this cell; they win over those of the template.
	//
	// +kubebuilder:validation:MaxProperties=256
	// +optional
	Values map[string]Value `json:"values,omitempty"`
}

// FleetPlacement says which cells serve which hosts.
type FleetPlacement struct {
	// ShardSize is how many cells may ever serve one host; all when it is not set.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=256
	// +optional
	ShardSize *int32 `json:"shardSize,omitempty"`
	// MaxShare is the most of all hosts, in percent, that one cell may be the first for. Weights are lowered to keep it.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	// +optional
	MaxShare *int32 `json:"maxShare,omitempty"`
	// MaxFailover is in percent of the cells: while more of them look dead to a router, it moves no hosts, because then
	// its own view is more likely wrong than they are dead.
	//
	// +kubebuilder:default=50
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	// +optional
	MaxFailover *int32 `json:"maxFailover,omitempty"`
	// Pins put hosts on cells, whatever the function says.
	//
	// +kubebuilder:validation:MaxItems=10000
	// +listType=map
	// +listMapKey=host
	// +optional
	Pins []Pin `json:"pins,omitempty"`
	// Weights of cells by name, in relation to each other; 100 for those that are not there. They win over those
	// of namedCells.
	//
	// +kubebuilder:validation:MaxProperties=256
	// +kubebuilder:validation:XValidation:rule="self.all(name, self[name] >= 0 && self[name] <= 1000000)",message="a weight is a number from 0 to 1000000"
	// +optional
	Weights map[string]int32 `json:"weights,omitempty"`
}

// Pin puts a host on a cell. While the cell is drained, the pin has no effect.
type Pin struct {
	// Host is a name, or "*.example.com" for all names below example.com, but not itself.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=255
	Host string `json:"host"`
	// Cell is the name of a ShopSet of the fleet.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=40
	Cell string `json:"cell"`
	// Until is when the pin ends by itself.
	//
	// +optional
	Until *metav1.Time `json:"until,omitempty"`
}

// FleetUpdate says how a change of the template goes over the cells.
type FleetUpdate struct {
	// MaxUnavailable is how many cells may be not ready while a change goes over the fleet: the next one is
	// changed when that leaves room.
	//
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=256
	// +optional
	MaxUnavailable int32 `json:"maxUnavailable,omitempty"`
}

// FleetStatus is what the operator sees.
type FleetStatus struct {
	// ObservedGeneration is the generation of the spec that this status speaks of.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions are Ready, Reconciling and Stalled.
	//
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Summary is the number of cells that are ready and of all that there shall be, as in "2/3".
	//
	// +optional
	Summary string `json:"summary,omitempty"`

	// Cells has one entry for each, those on their way out included, by name.
	//
	// +listType=map
	// +listMapKey=name
	// +optional
	Cells []CellStatus `json:"cells,omitempty"`

	// BlastRadius is what a failure touches.
	//
	// +optional
	BlastRadius *BlastRadius `json:"blastRadius,omitempty"`

	// Table is the routing table that was published last.
	//
	// +optional
	Table *TableStatus `json:"table,omitempty"`
}

// CellState says what a cell does in its fleet.
type CellState string

const (
	// CellActive takes its share of the hosts.
	CellActive CellState = "Active"
	// CellJoining takes none yet: it does when it is ready for the first time.
	CellJoining CellState = "Joining"
	// CellDrain takes none, because somebody said so.
	CellDrain CellState = "Drain"
	// CellLeaving takes none, and is deleted when it is idle.
	CellLeaving CellState = "Leaving"
)

// CellStatus is one cell, as the fleet sees it.
type CellStatus struct {
	// Name of the ShopSet.
	Name string `json:"name"`
	// State is Active, Joining, Drain or Leaving.
	State CellState `json:"state"`
	// Weight is the one in the routing table, with maxShare kept; 0 while the cell takes no hosts.
	Weight int64 `json:"weight"`
	// Share of the hosts whose first cell it is, as in "33.3%". Pins are not in it.
	//
	// +optional
	Share string `json:"share,omitempty"`
	// Revision is that of the ShopSet.
	//
	// +optional
	Revision string `json:"revision,omitempty"`
	// Ready is that of the ShopSet.
	Ready bool `json:"ready"`
	// Endpoints is how many addresses of its edge the routing table has.
	Endpoints int32 `json:"endpoints"`
	// Message says in one sentence what it waits for, or what is wrong with it.
	//
	// +optional
	Message string `json:"message,omitempty"`
}

// BlastRadius is what a failure touches: shares of all hosts, in percent. Pins are not in them.
type BlastRadius struct {
	// LargestShare is the largest share of one cell, LargestCell.
	LargestShare string `json:"largestShare"`
	// +optional
	LargestCell string `json:"largestCell,omitempty"`
	// ShardOverlap is how many of all hosts have just the same cells as a given one, on average.
	ShardOverlap string `json:"shardOverlap"`
	// AfterOneMoreFailure is the largest share of one cell when the one has failed that makes it largest.
	AfterOneMoreFailure string `json:"afterOneMoreFailure"`
	// LostAfterOneMoreFailure is how many of all hosts have no cell left then.
	LostAfterOneMoreFailure string `json:"lostAfterOneMoreFailure"`
}

// TableStatus is the routing table that was published last.
type TableStatus struct {
	// Epoch and Version order all tables of the fleet.
	Epoch   int64 `json:"epoch"`
	Version int64 `json:"version"`
	// Hash of its content.
	Hash string `json:"hash"`
	// Published is when.
	Published metav1.Time `json:"published"`
	// Key is the id of the key that signed it.
	Key string `json:"key"`
}
