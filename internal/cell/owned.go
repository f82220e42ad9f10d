package cell

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// ObjectList is a list of Kubernetes objects; the same as client.ObjectList without the client.
type ObjectList interface {
	metav1.ListInterface
	runtime.Object
}

// OwnedLists has an empty list of each kind that a ShopSet owns, and all of whose objects have LabelShopSet.
func OwnedLists() []ObjectList {
	return []ObjectList{
		&appsv1.DeploymentList{}, &corev1.ServiceList{}, &corev1.ConfigMapList{},
		&policyv1.PodDisruptionBudgetList{}, &networkingv1.NetworkPolicyList{},
		&autoscalingv2.HorizontalPodAutoscalerList{}, &appsv1.ControllerRevisionList{},
	}
}
