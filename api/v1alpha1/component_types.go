package v1alpha1

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// AdminPortName is the name of the port that every ShopSet program serves health, readiness and
// metrics on. A component may name it in health and connections without declaring it.
const AdminPortName = "admin"

// AdminPort is the number behind AdminPortName, unless the component declares another.
const AdminPort = 9090

// Component is one program of the cell: a Deployment, and a Service where it has ports.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.replicas) && has(self.autoscaling))",message="replicas and autoscaling exclude each other: the autoscaler decides the number; remove one"
// +kubebuilder:validation:XValidation:rule="!has(self.edge) || !self.edge || (has(self.ports) && self.ports.size() > 0)",message="the edge needs at least one port to receive traffic on",fieldPath=".ports"
// +kubebuilder:validation:XValidation:rule="!has(self.uses) || !(self.name in self.uses)",message="a component cannot use itself",fieldPath=".uses"
// +kubebuilder:validation:XValidation:rule="!has(self.health) || !has(self.health.port) || type(self.health.port) != string || self.health.port == 'admin' || (has(self.ports) && self.ports.exists(p, p.name == self.health.port))",message="health.port names a port that is not in ports; name one of them, write a number, or 'admin' for 9090",fieldPath=".health"
// +kubebuilder:validation:XValidation:rule="!has(self.connections) || type(self.connections.port) != string || self.connections.port == 'admin' || (has(self.ports) && self.ports.exists(p, p.name == self.connections.port))",message="connections.port names a port that is not in ports; name one of them, write a number, or 'admin' for 9090",fieldPath=".connections"
// +kubebuilder:validation:XValidation:rule="!has(self.warmCache) || !has(self.warmCache.budget) || !has(self.warmCache.budget.continue) || !self.warmCache.budget.continue || has(self.warmCache.save)",message="budget.continue goes on in the container that saves; add save, even an empty one, or take continue out",fieldPath=".warmCache"
// +kubebuilder:validation:XValidation:rule="!has(self.ports) || self.ports.all(p, !has(p.nodePort)) || (has(self.service) && self.service.type != 'ClusterIP')",message="a port has a nodePort, but the Service is of type ClusterIP; set service.type to NodePort or LoadBalancer",fieldPath=".ports"
type Component struct {
	// Name of the component; the Deployment and the Service are called SHOPSET-NAME.
	//
	// +kubebuilder:validation:MaxLength=22
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`

	// Image of the main container.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Image string `json:"image"`

	// ImagePullPolicy of the main container.
	//
	// +kubebuilder:default=IfNotPresent
	// +kubebuilder:validation:Enum=Always;IfNotPresent;Never
	// +optional
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy,omitempty"`

	// Edge marks the one component that receives traffic from outside.
	//
	// +optional
	Edge bool `json:"edge,omitempty"`

	// Replicas is the number of Pods; 2 when neither it nor autoscaling is set.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	// +optional
	Replicas *int32 `json:"replicas,omitempty"`

	// Autoscaling lets a HorizontalPodAutoscaler choose the number of Pods.
	//
	// +optional
	Autoscaling *Autoscaling `json:"autoscaling,omitempty"`

	// Ports the program listens on. The first is the one that components which use this one are
	// pointed to.
	//
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	// +optional
	Ports []Port `json:"ports,omitempty"`

	// Health says how the kubelet asks whether the program lives and may receive traffic.
	//
	// +optional
	Health *Health `json:"health,omitempty"`

	// Connections says where the edge tells its open client connections, so that a drained cell
	// is known to be idle: GET answers JSON {"open": N}.
	//
	// +optional
	Connections *HTTPEndpoint `json:"connections,omitempty"`

	// Uses names the components that this one calls. It gets NAME_URL for each, may reach them
	// through the NetworkPolicy, and in a change rolls after them.
	//
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=22
	// +listType=set
	// +optional
	Uses []string `json:"uses,omitempty"`

	// Config are files rendered from templates (Go text/template) over the component's environment
	// and mounted read-only at their path.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=path
	// +optional
	Config []ConfigFile `json:"config,omitempty"`

	// EntrypointImage is an image of shopset-entrypoint. With it, config is not rendered by the operator but
	// when a Pod starts, by an init container with the whole environment of the component: values of Secrets
	// and of envFrom can be used in templates, too.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +optional
	EntrypointImage string `json:"entrypointImage,omitempty"`

	// Command replaces the entrypoint of the image.
	//
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Command []string `json:"command,omitempty"`

	// Args of the command.
	//
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	Args []string `json:"args,omitempty"`

	// Env of this component alone; it wins over values.
	//
	// +kubebuilder:validation:MaxItems=256
	// +listType=map
	// +listMapKey=name
	// +optional
	Env []corev1.EnvVar `json:"env,omitempty"`

	// EnvFrom takes whole ConfigMaps and Secrets as environment.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	EnvFrom []corev1.EnvFromSource `json:"envFrom,omitempty"`

	// Resources of the main container; requests of 50m CPU and 64Mi memory when empty.
	//
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`

	// Volumes of the Pod.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	// +optional
	Volumes []corev1.Volume `json:"volumes,omitempty"`

	// VolumeMounts of the main container.
	//
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=mountPath
	// +optional
	VolumeMounts []corev1.VolumeMount `json:"volumeMounts,omitempty"`

	// ServiceAccount that the Pods run as. Without one they get no token.
	//
	// +kubebuilder:validation:MaxLength=253
	// +optional
	ServiceAccount string `json:"serviceAccount,omitempty"`

	// ImagePullSecrets of the Pods.
	//
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=name
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`

	// NodeSelector of the Pods.
	//
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// Tolerations of the Pods.
	//
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// Affinity of the Pods.
	//
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`

	// WarmCache restores the file caches of the most visited shops before the component starts.
	//
	// +optional
	WarmCache *WarmCache `json:"warmCache,omitempty"`

	// Service shapes the Service of the component.
	//
	// +optional
	Service *Service `json:"service,omitempty"`

	// PodTemplate is merged over the Pod template that the operator builds (strategic merge patch):
	// the way out for everything that has no field here. The main container has the component's
	// name. Names, selector labels and the operator's own annotations cannot be changed.
	//
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Type=object
	// +optional
	PodTemplate *runtime.RawExtension `json:"podTemplate,omitempty"`
}

// Port is a port that the program listens on.
type Port struct {
	// Name of the port; https… says that the port speaks TLS.
	//
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Port is the number, the same in the container and in the Service.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// NodePort asks for this port on every node; only with a Service of type NodePort or
	// LoadBalancer.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +optional
	NodePort int32 `json:"nodePort,omitempty"`
}

// Health describes the probes of a component.
//
// +kubebuilder:validation:XValidation:rule="has(self.port)",message="health needs a port: a number, the name of one of ports, or 'admin' for 9090"
type Health struct {
	// Path that answers 200 while the program lives. Without a path, a TCP connection is enough.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^/`
	// +optional
	Path string `json:"path,omitempty"`
	// ReadyPath answers 200 while the program may receive traffic; Path when empty.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^/`
	// +optional
	ReadyPath string `json:"readyPath,omitempty"`
	// ServingPath, of the edge, answers 200 while the whole cell serves: what routers in front of several cells ask. Kubernetes
	// does not, so that what still works goes on when there is no other cell. ReadyPath when empty.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^/`
	// +optional
	ServingPath string `json:"servingPath,omitempty"`
	// Port is a number, the name of a port, or "admin".
	//
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:XValidation:rule="type(self) == string || (self >= 1 && self <= 65535)",message="a port is a number from 1 to 65535, the name of one of ports, or 'admin'"
	// +optional
	Port intstr.IntOrString `json:"port,omitempty"`
	// StartupSeconds is how long the program may take until it answers for the first time.
	//
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600
	// +optional
	StartupSeconds int32 `json:"startupSeconds,omitempty"`
}

// HTTPEndpoint is a page that a Pod of the component answers.
type HTTPEndpoint struct {
	// Path of the page.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^/`
	Path string `json:"path"`
	// Port is a number, the name of a port, or "admin".
	//
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:XValidation:rule="type(self) == string || (self >= 1 && self <= 65535)",message="a port is a number from 1 to 65535, the name of one of ports, or 'admin'"
	Port intstr.IntOrString `json:"port"`
}

// ConfigFile is a file made from a template.
type ConfigFile struct {
	// Path of the file in the container, absolute.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$`
	Path string `json:"path"`
	// Template in the syntax of Go's text/template; {{ .NAME }} is a variable of the component's
	// environment. A variable that is not set is an error.
	//
	// +kubebuilder:validation:MaxLength=262144
	Template string `json:"template"`
}

// Autoscaling bounds the number of Pods and says by what it is chosen.
//
// +kubebuilder:validation:XValidation:rule="self.min <= self.max",message="autoscaling.min is larger than autoscaling.max"
// +kubebuilder:validation:XValidation:rule="has(self.cpu) || (has(self.metrics) && self.metrics.size() > 0)",message="autoscaling needs cpu (a percentage of the request) or metrics"
type Autoscaling struct {
	// Min is the smallest number of Pods.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	Min int32 `json:"min"`
	// Max is the largest number of Pods.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	Max int32 `json:"max"`
	// CPU is the average use to aim at, in percent of the request.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	// +optional
	CPU *int32 `json:"cpu,omitempty"`
	// Metrics as in a HorizontalPodAutoscaler, besides cpu.
	//
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	Metrics []autoscalingv2.MetricSpec `json:"metrics,omitempty"`
}

// Service shapes the Service of a component.
type Service struct {
	// Type of the Service.
	//
	// +kubebuilder:default=ClusterIP
	// +kubebuilder:validation:Enum=ClusterIP;NodePort;LoadBalancer
	// +optional
	Type corev1.ServiceType `json:"type,omitempty"`
	// Annotations of the Service, for cloud load balancers and external DNS.
	//
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
	// ExternalTrafficPolicy of the Service: Local keeps the client's address.
	//
	// +kubebuilder:validation:Enum=Cluster;Local
	// +optional
	ExternalTrafficPolicy corev1.ServiceExternalTrafficPolicy `json:"externalTrafficPolicy,omitempty"`
}
