package cell

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shopset/shopset/api/v1alpha1"
)

// defaultReplicas survives the loss of one Pod.
const defaultReplicas = 2

func meta(ss *v1alpha1.ShopSet, component string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:      ObjectName(ss.Name, component),
		Namespace: ss.Namespace,
		Labels:    labels(ss.Name, component),
	}
}

// deployment keeps full capacity during a change: a new Pod is ready before an old one goes.
func deployment(ss *v1alpha1.ShopSet, component *v1alpha1.Component, template corev1.PodTemplateSpec) *appsv1.Deployment {
	revision := hash(template)
	template.Labels[LabelRevision] = revision
	result := &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: meta(ss, component.Name),
		Spec: appsv1.DeploymentSpec{
			Replicas:                replicas(component),
			Selector:                &metav1.LabelSelector{MatchLabels: selector(ss.Name, component.Name)},
			Template:                template,
			RevisionHistoryLimit:    new(int32(2)),
			ProgressDeadlineSeconds: new(int32(600)),
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{
					MaxSurge: new(intstr.FromString("25%")), MaxUnavailable: new(intstr.FromInt32(0)),
				},
			},
		},
	}
	result.Annotations = map[string]string{AnnotationRevision: revision}
	return result
}

// replicas is nil where an autoscaler decides.
func replicas(component *v1alpha1.Component) *int32 {
	switch {
	case component.Autoscaling != nil:
		return nil
	case component.Replicas != nil:
		return new(*component.Replicas)
	default:
		return new(int32(defaultReplicas))
	}
}

// autoscaler is nil where the spec says a number.
func autoscaler(ss *v1alpha1.ShopSet, component *v1alpha1.Component) *autoscalingv2.HorizontalPodAutoscaler {
	scaling := component.Autoscaling
	if scaling == nil {
		return nil
	}
	var metrics []autoscalingv2.MetricSpec
	if scaling.CPU != nil {
		metrics = append(metrics, autoscalingv2.MetricSpec{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{
					Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(*scaling.CPU),
				},
			},
		})
	}
	return &autoscalingv2.HorizontalPodAutoscaler{
		TypeMeta:   metav1.TypeMeta{APIVersion: "autoscaling/v2", Kind: "HorizontalPodAutoscaler"},
		ObjectMeta: meta(ss, component.Name),
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{
				APIVersion: "apps/v1", Kind: "Deployment", Name: ObjectName(ss.Name, component.Name),
			},
			MinReplicas: new(scaling.Min),
			MaxReplicas: scaling.Max,
			Metrics:     append(metrics, scaling.Metrics...),
		},
	}
}

// disruptionBudget lets a node be emptied one Pod at a time, also with a single replica: a budget
// that never lets a Pod go only blocks the people who maintain the nodes.
func disruptionBudget(ss *v1alpha1.ShopSet, component *v1alpha1.Component) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		TypeMeta:   metav1.TypeMeta{APIVersion: "policy/v1", Kind: "PodDisruptionBudget"},
		ObjectMeta: meta(ss, component.Name),
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable:             new(intstr.FromInt32(1)),
			Selector:                   &metav1.LabelSelector{MatchLabels: selector(ss.Name, component.Name)},
			UnhealthyPodEvictionPolicy: new(policyv1.AlwaysAllow),
		},
	}
}
