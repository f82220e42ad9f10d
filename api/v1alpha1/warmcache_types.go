package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WarmCachePort is where the saver beside a component serves health and metrics: AdminPort is the component's own.
const WarmCachePort = 9091

// WarmCache keeps the file caches of the most visited shops: they are restored before the component starts, and
// saved from its Pods.
type WarmCache struct {
	// Image of shopset-cache.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Image string `json:"image"`

	// Path of the folder in the main container that holds one folder for each shop. A volume that the component
	// mounts there is used; without one, an emptyDir is mounted.
	//
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$`
	Path string `json:"path"`

	// Source says where the caches are kept.
	Source WarmCacheSource `json:"source"`

	// Budget bounds what a Pod waits for before it starts.
	//
	// +optional
	Budget WarmCacheBudget `json:"budget,omitempty"`

	// Save says how the caches of running Pods are saved; without it they are only restored.
	//
	// +optional
	Save *WarmCacheSave `json:"save,omitempty"`

	// SizeLimit of the emptyDir.
	//
	// +optional
	SizeLimit *resource.Quantity `json:"sizeLimit,omitempty"`

	// User is the number of the user that the files belong to: the one that the component's image runs as, when it is not
	// the one of shopset-cache's.
	//
	// +kubebuilder:validation:Minimum=1
	// +optional
	User *int64 `json:"user,omitempty"`
}

// WarmCacheSource is a storage, and what is taken from it.
type WarmCacheSource struct {
	// Storage is s3://BUCKET/PREFIX?region=…&endpoint=…, or the path of a folder that the component mounts.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^(s3://[a-z0-9][a-z0-9.-]+|/)[^\s]*$`
	Storage string `json:"storage"`

	// Compatibility is a text that changes when another release cannot read what this one wrote: Pods see the caches of
	// their own alone. Without it, each image of the component has caches of its own.
	//
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9._]*[a-z0-9])?$`
	// +optional
	Compatibility string `json:"compatibility,omitempty"`

	// Quarantine is how old a snapshot must be before it is restored, so that a bad one can be revoked first.
	//
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(ms|s|m|h)){1,4}$`
	// +optional
	Quarantine *metav1.Duration `json:"quarantine,omitempty"`

	// Validate is a program with its arguments, separated by spaces, that is given the folder of each shop before it is saved
	// or published, and fails if that must not be. It has to be in the image of shopset-cache.
	//
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Validate string `json:"validate,omitempty"`

	// EnvFrom has the credentials of the storage (AWS_ACCESS_KEY_ID, …). Without them the identity of the component's service
	// account is used.
	//
	// +kubebuilder:validation:MaxItems=8
	// +listType=atomic
	// +optional
	EnvFrom []corev1.EnvFromSource `json:"envFrom,omitempty"`
}

// WarmCacheBudget bounds a restore; the most valuable shops come first. When it is used up, the Pod starts.
type WarmCacheBudget struct {
	// Bytes of files.
	//
	// +kubebuilder:default="2Gi"
	// +optional
	Bytes *resource.Quantity `json:"bytes,omitempty"`
	// Time, written as 20s or 1m30s.
	//
	// +kubebuilder:default="20s"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(ms|s|m|h)){1,4}$`
	// +optional
	Time *metav1.Duration `json:"time,omitempty"`
	// Files is how many there may be; 0 for any number.
	//
	// +kubebuilder:validation:Minimum=0
	// +optional
	Files int64 `json:"files,omitempty"`
	// Continue restores the rest beside the running component. It wants save.
	//
	// +optional
	Continue bool `json:"continue,omitempty"`
}

// WarmCacheSave says how the caches of running Pods are saved. A container beside each does it; a shop is saved by one of them
// at a time.
type WarmCacheSave struct {
	// Every is the time between two rounds.
	//
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^([0-9]{1,5}(ms|s|m|h)){1,4}$`
	// +optional
	Every *metav1.Duration `json:"every,omitempty"`
	// BytesPerSecond is what may be sent.
	//
	// +kubebuilder:default="16Mi"
	// +optional
	BytesPerSecond *resource.Quantity `json:"bytesPerSecond,omitempty"`
	// EnvFrom has the credentials of who writes; those of source, which need only read, when empty.
	//
	// +kubebuilder:validation:MaxItems=8
	// +listType=atomic
	// +optional
	EnvFrom []corev1.EnvFromSource `json:"envFrom,omitempty"`
	// Resources of the container; requests of 10m CPU and 32Mi memory, and 256Mi memory at most, when empty.
	//
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`
}
