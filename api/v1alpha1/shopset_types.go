package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ShopSet is one cell: a whole copy of the system, built and kept by the operator.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Components",type=string,JSONPath=`.status.summary`
// +kubebuilder:printcolumn:name="Traffic",type=string,JSONPath=`.spec.traffic`
// +kubebuilder:printcolumn:name="Revision",type=string,JSONPath=`.status.revision`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 40",message="metadata.name is longer than 40 characters; components add theirs to it, and a Service name ends at 63"
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",message="metadata.name must start with a letter and hold only a-z, 0-9 and '-', because Services are named after it"
type ShopSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what the cell shall be.
	Spec ShopSetSpec `json:"spec"`
	// Status is what the operator sees. It is never read back as input.
	Status ShopSetStatus `json:"status,omitempty"`
}

// ShopSetList is a list of ShopSets.
//
// +kubebuilder:object:root=true
type ShopSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ShopSet `json:"items"`
}

// Traffic says whether a cell takes part.
//
// +kubebuilder:validation:Enum=Active;Drain
type Traffic string

const (
	// TrafficActive is the ordinary state: the edge receives traffic.
	TrafficActive Traffic = "Active"
	// TrafficDrain takes the edge out of service; connections under way may finish.
	TrafficDrain Traffic = "Drain"
)

// ShopSetSpec describes a cell.
//
// +kubebuilder:validation:XValidation:rule="self.components.filter(c, has(c.edge) && c.edge).size() == 1",message="exactly one component must have edge: true, the one that receives traffic from outside",fieldPath=".components"
// +kubebuilder:validation:XValidation:rule="self.components.all(c, !has(c.uses) || c.uses.all(u, self.components.exists(d, d.name == u)))",message="uses names a component that does not exist; add it or take the name out of uses",fieldPath=".components"
// +kubebuilder:validation:XValidation:rule="self.components.all(c, (has(c.ports) && c.ports.size() > 0) || self.components.all(d, !has(d.uses) || !(c.name in d.uses)))",message="a component that others name in uses needs at least one port",fieldPath=".components"
type ShopSetSpec struct {
	// Environment is the name of the environment (production, staging). Every component gets it as
	// the variable ENVIRONMENT.
	//
	// +kubebuilder:default=production
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]*[a-z0-9])?$`
	// +optional
	Environment string `json:"environment,omitempty"`

	// Traffic is Active, or Drain to move the traffic away from this cell.
	//
	// +kubebuilder:default=Active
	// +optional
	Traffic Traffic `json:"traffic,omitempty"`

	// Drain says how the cell is taken out of service, before deletion too.
	//
	// +optional
	Drain *Drain `json:"drain,omitempty"`

	// Values are environment variables of every component.
	//
	// +kubebuilder:validation:MaxProperties=256
	// +kubebuilder:validation:XValidation:rule="self.all(k, k.matches('^[A-Za-z_][A-Za-z0-9_]*$'))",message="each name must be that of an environment variable: letters, digits and _, no digit first"
	// +optional
	Values map[string]Value `json:"values,omitempty"`

	// Components are the programs of the cell.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	Components []Component `json:"components"`

	// RevisionHistoryLimit is how many earlier revisions are kept to go back to.
	//
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=20
	// +optional
	RevisionHistoryLimit *int32 `json:"revisionHistoryLimit,omitempty"`
}

// Value is the value of one environment variable.
//
// +kubebuilder:validation:MaxLength=8192
type Value string

// Drain bounds how long a cell may take to become idle.
type Drain struct {
	// Deadline after which a cell that is being deleted goes even if connections are left.
	//
	// Written as 90s, 5m or 1h30m, with up to five digits a number. What the schema takes, the operator must be
	// able to read: a list with one ShopSet in it that it cannot read tells it of none.
	//
	// +kubebuilder:default="5m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(ms|s|m|h)){1,4}$`
	// +optional
	Deadline *metav1.Duration `json:"deadline,omitempty"`
}

// Types of the conditions of a ShopSet. Ready, Reconciling and Stalled follow kstatus
// (sigs.k8s.io/cli-utils/pkg/kstatus): the latter two are present only while they are true.
const (
	// ConditionReady is true when every component serves at the wanted revision.
	ConditionReady = "Ready"
	// ConditionReconciling is true while the operator or Kubernetes works towards the spec.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is true when nothing will change without a human.
	ConditionStalled = "Stalled"
	// ConditionIdle is true when the cell is drained and has no connections: safe to delete.
	ConditionIdle = "Idle"
)

// ShopSetStatus is what the operator sees.
type ShopSetStatus struct {
	// ObservedGeneration is the generation of the spec that this status speaks of.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions are Ready, Reconciling, Stalled and Idle.
	//
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Summary is the number of components that serve and of all, as in "3/4".
	//
	// +optional
	Summary string `json:"summary,omitempty"`

	// Revision is the hash of everything the spec says to run, config included.
	//
	// +optional
	Revision string `json:"revision,omitempty"`

	// DrainStarted is when the cell was taken out of service, while it is.
	//
	// +optional
	DrainStarted *metav1.Time `json:"drainStarted,omitempty"`

	// Connections is the number of client connections open at the edge, while the cell drains and
	// the edge tells it.
	//
	// +optional
	Connections *int64 `json:"connections,omitempty"`

	// Components has one entry for each component of the spec, in its order.
	//
	// +listType=map
	// +listMapKey=name
	// +optional
	Components []ComponentStatus `json:"components,omitempty"`
}

// ComponentStatus is the state of one component.
type ComponentStatus struct {
	Name string `json:"name"`
	// Ready and Desired count Pods.
	Ready   int32 `json:"ready"`
	Desired int32 `json:"desired"`
	// Revision is the hash of the Pod template that the component is at or on the way to.
	Revision string `json:"revision,omitempty"`
	// Warm says how much of its cache the Pod that started last found restored, as in
	// "187 shops, 68 % of traffic, 9.2 s".
	//
	// +optional
	Warm string `json:"warm,omitempty"`
	// Message says in one sentence why the component is not well, or what it waits for.
	//
	// +optional
	Message string `json:"message,omitempty"`
}
