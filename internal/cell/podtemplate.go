package cell

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/shopset/shopset/api/v1alpha1"
)

const (
	// preStopSeconds is how long a Pod goes on serving after it was told to stop: until then the
	// last node has heard that it takes no more connections.
	preStopSeconds = 5
	// gracePeriodSeconds leaves the program 30 s for the requests under way.
	gracePeriodSeconds = 35

	configVolume = "shopset-config"
	tmpVolume    = "shopset-tmp"

	renderedVolume  = "shopset-rendered"
	renderContainer = "shopset-render"
)

// podTemplate builds the Pod template of a component: the defaults that production wants, the spec,
// and the overlay of the spec over both.
func podTemplate(ss *v1alpha1.ShopSet, component *v1alpha1.Component, env []corev1.EnvVar, config *corev1.ConfigMap, problems *Problems) corev1.PodTemplateSpec {
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels(ss.Name, component.Name)},
		Spec: corev1.PodSpec{
			Containers:                    []corev1.Container{mainContainer(component, env)},
			Volumes:                       slices.Clone(component.Volumes),
			ServiceAccountName:            component.ServiceAccount,
			AutomountServiceAccountToken:  new(component.ServiceAccount != ""),
			EnableServiceLinks:            new(false),
			ImagePullSecrets:              component.ImagePullSecrets,
			NodeSelector:                  component.NodeSelector,
			Tolerations:                   component.Tolerations,
			Affinity:                      component.Affinity,
			TerminationGracePeriodSeconds: new(int64(gracePeriodSeconds)),
			TopologySpreadConstraints: []corev1.TopologySpreadConstraint{
				spread(ss.Name, component.Name, corev1.LabelHostname),
				spread(ss.Name, component.Name, corev1.LabelTopologyZone),
			},
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot:   new(true),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
		},
	}
	mountConfig(&template.Spec, component, config)
	addWarmCache(&template.Spec, component)
	mountTmp(&template.Spec, component)
	before := template
	template = overlay(template, ss, component, problems)
	followEnvironment(&before.Spec, &template.Spec, component.Name)
	checkVolumes(&template.Spec, component.Name, problems)
	return template
}

func mainContainer(component *v1alpha1.Component, env []corev1.EnvVar) corev1.Container {
	container := corev1.Container{
		Name:            component.Name,
		Image:           component.Image,
		ImagePullPolicy: component.ImagePullPolicy,
		Command:         component.Command,
		Args:            component.Args,
		Env:             env,
		EnvFrom:         component.EnvFrom,
		Resources:       *component.Resources.DeepCopy(),
		VolumeMounts:    slices.Clone(component.VolumeMounts),
		Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{
			Sleep: &corev1.SleepAction{Seconds: preStopSeconds},
		}},
		// The end of the log becomes the termination message: the reason of a crash is in the
		// status of the Pod, and the operator needs no right to read logs.
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false),
			Privileged:               new(false),
			ReadOnlyRootFilesystem:   new(true),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
	for _, port := range component.Ports {
		container.Ports = append(container.Ports, corev1.ContainerPort{
			Name: port.Name, ContainerPort: port.Port, Protocol: corev1.ProtocolTCP,
		})
	}
	if usesAdminPort(component) {
		container.Ports = append(container.Ports, corev1.ContainerPort{
			Name: v1alpha1.AdminPortName, ContainerPort: v1alpha1.AdminPort, Protocol: corev1.ProtocolTCP,
		})
	}
	if len(container.Resources.Requests) == 0 && len(container.Resources.Limits) == 0 {
		container.Resources.Requests = corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("50m"),
			corev1.ResourceMemory: resource.MustParse("64Mi"),
		}
	}
	probes(&container, component)
	return container
}

// usesAdminPort says whether the component means the admin port by name without declaring it.
func usesAdminPort(component *v1alpha1.Component) bool {
	for _, port := range component.Ports {
		if port.Name == v1alpha1.AdminPortName || port.Port == v1alpha1.AdminPort {
			return false
		}
	}
	admin := intstr.FromString(v1alpha1.AdminPortName)
	return component.Health != nil && component.Health.Port == admin ||
		component.Connections != nil && component.Connections.Port == admin
}

// probes derives the three probes from health. Without health, a component with ports counts as
// ready when its first port takes connections.
func probes(container *corev1.Container, component *v1alpha1.Component) {
	health := component.Health
	if health == nil {
		if len(component.Ports) == 0 {
			return
		}
		health = &v1alpha1.Health{Port: intstr.FromInt32(component.Ports[0].Port)}
	}
	// By number: a name would have to be declared in the container, and "admin" may not be.
	port := intstr.FromInt32(PortNumber(component, health.Port))
	readyPath := health.ReadyPath
	if readyPath == "" {
		readyPath = health.Path
	}
	startup := health.StartupSeconds
	if startup == 0 {
		startup = 300
	}
	container.StartupProbe = probe(health.Path, port, 1, 1, startup)
	container.ReadinessProbe = probe(readyPath, port, 2, 2, 3)
	if component.Health != nil {
		container.LivenessProbe = probe(health.Path, port, 10, 5, 6)
	}
}

// probe states every field that the API server would fill in, so that a later default of Kubernetes
// changes nothing.
func probe(path string, port intstr.IntOrString, period, timeout, failures int32) *corev1.Probe {
	result := &corev1.Probe{
		PeriodSeconds: period, TimeoutSeconds: timeout, FailureThreshold: failures, SuccessThreshold: 1,
	}
	if path == "" {
		result.TCPSocket = &corev1.TCPSocketAction{Port: port}
	} else {
		result.HTTPGet = &corev1.HTTPGetAction{Path: path, Port: port, Scheme: corev1.URISchemeHTTP}
	}
	return result
}

func spread(shopSet, component, key string) corev1.TopologySpreadConstraint {
	return corev1.TopologySpreadConstraint{
		MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: corev1.ScheduleAnyway,
		LabelSelector:  &metav1.LabelSelector{MatchLabels: selector(shopSet, component)},
		MatchLabelKeys: []string{"pod-template-hash"},
	}
}

func mountConfig(pod *corev1.PodSpec, component *v1alpha1.Component, config *corev1.ConfigMap) {
	if config == nil {
		return
	}
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: configVolume, VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: config.Name},
			DefaultMode:          new(int32(0o444)),
		},
	}})
	files := configVolume
	if component.EntrypointImage != "" {
		files = renderedVolume
		renderInPod(pod, component)
	}
	for i, file := range component.Config {
		pod.Containers[0].VolumeMounts = append(pod.Containers[0].VolumeMounts, corev1.VolumeMount{
			Name: files, MountPath: file.Path, SubPath: configKey(i, file.Path), ReadOnly: true,
		})
	}
}

// renderInPod adds the init container that renders config with the environment of the component. The files
// are in memory, as they may hold secrets.
func renderInPod(pod *corev1.PodSpec, component *v1alpha1.Component) {
	const templates, rendered = "/shopset/templates", "/shopset/rendered"
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: renderedVolume, VolumeSource: corev1.VolumeSource{
		EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: resource.NewQuantity(16<<20, resource.BinarySI)},
	}})
	container := *pod.Containers[0].DeepCopy()
	init := corev1.Container{
		Name: renderContainer, Image: component.EntrypointImage, ImagePullPolicy: container.ImagePullPolicy,
		Env: container.Env, EnvFrom: container.EnvFrom, Resources: container.Resources,
		SecurityContext: container.SecurityContext, TerminationMessagePolicy: container.TerminationMessagePolicy,
		// Secrets may be files, too.
		VolumeMounts: append(slices.Clone(component.VolumeMounts),
			corev1.VolumeMount{Name: configVolume, MountPath: templates, ReadOnly: true},
			corev1.VolumeMount{Name: renderedVolume, MountPath: rendered}),
	}
	for i, file := range component.Config {
		init.Args = append(init.Args, "--render", templates+"/"+templateKey(i, file.Path)+":"+rendered+"/"+configKey(i, file.Path))
	}
	pod.InitContainers = append(pod.InitContainers, init)
}

// followEnvironment gives the container that renders config what the overlay says of the component's environment:
// they must see the same. An overlay of that container itself counts for more.
func followEnvironment(before, after *corev1.PodSpec, component string) {
	named := func(containers []corev1.Container, name string) *corev1.Container {
		if i := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == name }); i >= 0 {
			return &containers[i]
		}
		return nil
	}
	render, main := named(after.InitContainers, renderContainer), named(after.Containers, component)
	own := named(before.InitContainers, renderContainer)
	if render == nil || main == nil || own == nil {
		return
	}
	if equality.Semantic.DeepEqual(render.Env, own.Env) && equality.Semantic.DeepEqual(render.EnvFrom, own.EnvFrom) {
		render.Env, render.EnvFrom = slices.Clone(main.Env), slices.Clone(main.EnvFrom)
	}
}

// mountTmp gives the program the one writable folder that nearly every program expects.
func mountTmp(pod *corev1.PodSpec, component *v1alpha1.Component) {
	for _, mount := range component.VolumeMounts {
		if mount.MountPath == "/tmp" {
			return
		}
	}
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: tmpVolume, VolumeSource: corev1.VolumeSource{
		EmptyDir: &corev1.EmptyDirVolumeSource{},
	}})
	pod.Containers[0].VolumeMounts = append(pod.Containers[0].VolumeMounts, corev1.VolumeMount{Name: tmpVolume, MountPath: "/tmp"})
}

// overlay merges spec.podTemplate over the template and puts the labels that the operator lives by
// back in place.
func overlay(template corev1.PodTemplateSpec, ss *v1alpha1.ShopSet, component *v1alpha1.Component, problems *Problems) corev1.PodTemplateSpec {
	if component.PodTemplate == nil || len(component.PodTemplate.Raw) == 0 {
		return template
	}
	field := componentField(component.Name, "podTemplate")
	base, err := json.Marshal(template)
	if err != nil {
		problems.add(field, "%v", err)
		return template
	}
	merged, err := strategicpatch.StrategicMergePatch(base, component.PodTemplate.Raw, corev1.PodTemplateSpec{})
	if err != nil {
		problems.add(field, "cannot be merged over the Pod template: %v", err)
		return template
	}
	var result corev1.PodTemplateSpec
	decoder := json.NewDecoder(bytes.NewReader(merged))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&result); err != nil {
		problems.add(field, "is not a Pod template: %v", err)
		return template
	}
	checkOverlay(template, result, component.Name, field, problems)
	result.ObjectMeta = metav1.ObjectMeta{Labels: result.Labels, Annotations: result.Annotations}
	if result.Labels == nil {
		result.Labels = map[string]string{}
	}
	maps.Copy(result.Labels, labels(ss.Name, component.Name))
	return result
}

// checkOverlay refuses what would make the operator lose sight of its Pods.
func checkOverlay(before, after corev1.PodTemplateSpec, container, field string, problems *Problems) {
	own := func(kind string, before, after map[string]string) {
		for _, key := range sortedKeys(after) {
			if value, same := before[key]; strings.HasPrefix(key, "shopset.dev/") && (!same || value != after[key]) {
				problems.add(field+".metadata."+kind, "%s belongs to the operator; take it out", key)
			}
		}
	}
	own("labels", before.Labels, after.Labels)
	own("annotations", before.Annotations, after.Annotations)
	rest := after.ObjectMeta
	rest.Labels, rest.Annotations = nil, nil
	if !equality.Semantic.DeepEqual(rest, metav1.ObjectMeta{}) {
		problems.add(field+".metadata", "only labels and annotations can be set here")
	}
	if !slices.ContainsFunc(after.Spec.Containers, func(c corev1.Container) bool { return c.Name == container }) {
		problems.add(field+".spec.containers", "the container %s is the component itself and must stay", container)
	}
}

// checkVolumes finds what the API server would refuse when other objects are applied already.
func checkVolumes(pod *corev1.PodSpec, component string, problems *Problems) {
	volumes := map[string]bool{}
	for _, volume := range pod.Volumes {
		if volumes[volume.Name] {
			problems.add(componentField(component, "volumes"), "%s is there twice; rename one (%s are the operator's own)",
				volume.Name, strings.Join([]string{configVolume, renderedVolume, tmpVolume, warmVolume, reportVolume}, ", "))
		}
		volumes[volume.Name] = true
	}
	for _, container := range slices.Concat(pod.InitContainers, pod.Containers) {
		paths := map[string]bool{}
		for _, mount := range container.VolumeMounts {
			if !volumes[mount.Name] {
				problems.add(componentField(component, "volumeMounts"), "%s is mounted at %s, but there is no volume of that name", mount.Name, mount.MountPath)
			}
			if paths[mount.MountPath] {
				problems.add(componentField(component, "volumeMounts"), "two volumes or config files are mounted at %s", mount.MountPath)
			}
			paths[mount.MountPath] = true
		}
	}
}
