package cell

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/shopset/shopset/api/v1alpha1"
)

const (
	// RestoreContainer is the init container whose termination message is the report of the restore.
	RestoreContainer = "shopset-restore"
	saveContainer    = "shopset-save"
	warmVolume       = "shopset-warm"
	// reportVolume tells the container that goes on with a restore what is done already.
	reportVolume = "shopset-warm-report"
	reportFolder = "/shopset/warm"
)

// Defaults of a WarmCache: what the CRD says, for fields whose parents were left out.
const (
	warmBytes          = 2 << 30
	warmTime           = 20 * time.Second
	warmEvery          = 10 * time.Minute
	warmBytesPerSecond = 16 << 20
)

// restoreMemory is what a restore may need, the disk's cache included. The limit of the component itself may be lower: a restore
// that is killed for that is begun again and again, and the component never starts.
const restoreMemory = 384 << 20

// addWarmCache restores the component's file caches in an init container, and saves them in a container beside it that
// starts before it and ends after it.
func addWarmCache(pod *corev1.PodSpec, component *v1alpha1.Component) {
	warm := component.WarmCache
	if warm == nil {
		return
	}
	main := &pod.Containers[0]
	volume := warmVolume
	if i := slices.IndexFunc(main.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == warm.Path }); i >= 0 {
		volume = main.VolumeMounts[i].Name
	} else {
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: warmVolume, VolumeSource: corev1.VolumeSource{
			EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: warm.SizeLimit},
		}})
		main.VolumeMounts = append(main.VolumeMounts, corev1.VolumeMount{Name: warmVolume, MountPath: warm.Path})
	}
	mounts := []corev1.VolumeMount{{Name: volume, MountPath: warm.Path}}
	for _, mount := range component.VolumeMounts { // A storage that is a folder.
		if strings.HasPrefix(warm.Source.Storage+"/", mount.MountPath+"/") && mount.MountPath != warm.Path {
			mounts = append(mounts, mount)
		}
	}
	security := main.SecurityContext.DeepCopy()
	security.RunAsUser = warm.User
	common := []string{"--storage", warm.Source.Storage, "--compat", compatibility(component), "--folder", warm.Path}
	if warm.Source.Validate != "" {
		common = append(common, "--validate", warm.Source.Validate)
	}

	restore := corev1.Container{
		Name: RestoreContainer, Image: warm.Image, ImagePullPolicy: main.ImagePullPolicy,
		Args:    slices.Concat([]string{"restore"}, common, restoreArgs(warm), []string{"--termination-message", corev1.TerminationMessagePathDefault}),
		EnvFrom: warm.Source.EnvFrom, Resources: restoreResources(main), VolumeMounts: mounts, SecurityContext: security,
		TerminationMessagePolicy: corev1.TerminationMessageReadFile,
	}
	if warm.Budget.Continue {
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: reportVolume, VolumeSource: corev1.VolumeSource{
			EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(64<<20, resource.BinarySI)},
		}})
		restore.Args = append(restore.Args, "--report", reportFolder+"/restored.json")
		restore.VolumeMounts = append(restore.VolumeMounts, corev1.VolumeMount{Name: reportVolume, MountPath: reportFolder})
	}
	pod.InitContainers = append(pod.InitContainers, restore)
	if warm.Save != nil {
		pod.InitContainers = append(pod.InitContainers, saver(restore, warm, common))
	}
}

// restoreResources are those of the main container, which is not there yet while it is restored, but for too little memory.
func restoreResources(main *corev1.Container) corev1.ResourceRequirements {
	resources := *main.Resources.DeepCopy()
	if limit, bounded := resources.Limits[corev1.ResourceMemory]; bounded && limit.Value() < restoreMemory {
		resources.Limits[corev1.ResourceMemory] = *resource.NewQuantity(restoreMemory, resource.BinarySI)
	}
	return resources
}

// restoreArgs say what is restored of what there is.
func restoreArgs(warm *v1alpha1.WarmCache) []string {
	args := []string{
		"--budget-bytes", strconv.FormatInt(quantity(warm.Budget.Bytes, warmBytes), 10),
		"--budget-time", duration(warm.Budget.Time, warmTime),
	}
	if warm.Budget.Files > 0 {
		args = append(args, "--budget-files", strconv.FormatInt(warm.Budget.Files, 10))
	}
	if warm.Source.Quarantine != nil {
		args = append(args, "--quarantine", warm.Source.Quarantine.Duration.String())
	}
	return args
}

// saver is a sidecar: an init container that is never waited for.
func saver(restore corev1.Container, warm *v1alpha1.WarmCache, common []string) corev1.Container {
	result := *restore.DeepCopy()
	result.Name = saveContainer
	result.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	result.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	if len(warm.Save.EnvFrom) > 0 {
		result.EnvFrom = warm.Save.EnvFrom
	}
	result.Resources = *warm.Save.Resources.DeepCopy()
	if len(result.Resources.Requests) == 0 && len(result.Resources.Limits) == 0 {
		result.Resources.Requests = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi"),
		}
		result.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("256Mi")}
	}
	command := "save"
	if warm.Budget.Continue {
		command = "keep" // It restores first what there was no time for, within the same budgets.
		common = slices.Concat(common, restoreArgs(warm))
	}
	result.Args = slices.Concat([]string{command}, common, []string{
		"--every", duration(warm.Save.Every, warmEvery),
		"--bytes-per-second", strconv.FormatInt(quantity(warm.Save.BytesPerSecond, warmBytesPerSecond), 10),
		"--admin", ":" + strconv.Itoa(v1alpha1.WarmCachePort),
	})
	if warm.Budget.Continue {
		result.Args = append(result.Args, "--report", reportFolder+"/restored.json")
	}
	result.Ports = []corev1.ContainerPort{{Name: "warm-admin", ContainerPort: v1alpha1.WarmCachePort, Protocol: corev1.ProtocolTCP}}
	result.LivenessProbe = probe("/healthz", intstr.FromInt32(v1alpha1.WarmCachePort), 10, 5, 6)
	return result
}

// compatibility says which caches Pods of this component may read. An image may hold other code than the one before, and
// only who writes it knows whether that reads the same caches.
func compatibility(component *v1alpha1.Component) string {
	return cmp.Or(component.WarmCache.Source.Compatibility, "image-"+hash(component.Image))
}

func quantity(q *resource.Quantity, or int64) int64 {
	if q == nil {
		return or
	}
	return q.Value()
}

func duration(d *metav1.Duration, or time.Duration) string {
	if d == nil {
		return or.String()
	}
	return d.Duration.String()
}

// checkWarmCache finds what the CRD's schema cannot say.
func checkWarmCache(component *v1alpha1.Component, problems *Problems) {
	warm := component.WarmCache
	if warm == nil {
		return
	}
	positive := func(field string, q *resource.Quantity) {
		if q != nil && q.Sign() <= 0 {
			problems.add(componentField(component.Name, "warmCache."+field), "must be above 0, as 2Gi is")
		}
	}
	positive("budget.bytes", warm.Budget.Bytes)
	positive("sizeLimit", warm.SizeLimit)
	if warm.Budget.Time != nil && warm.Budget.Time.Duration <= 0 {
		problems.add(componentField(component.Name, "warmCache.budget.time"), "must be above 0, as 20s is: a Pod would wait for ever")
	}
	if bytes := quantity(warm.Budget.Bytes, warmBytes); warm.SizeLimit != nil && warm.SizeLimit.Sign() > 0 && warm.SizeLimit.Value() < bytes {
		problems.add(componentField(component.Name, "warmCache.sizeLimit"), "%s is less than budget.bytes, %s: a Pod that is restored would be evicted; raise the one or lower the other",
			warm.SizeLimit, resource.NewQuantity(bytes, resource.BinarySI))
	}
	if warm.Save != nil {
		positive("save.bytesPerSecond", warm.Save.BytesPerSecond)
		if warm.Save.Every != nil && warm.Save.Every.Duration < time.Second {
			problems.add(componentField(component.Name, "warmCache.save.every"), "must be 1s or more")
		}
		if slices.ContainsFunc(component.Ports, func(p v1alpha1.Port) bool { return p.Port == v1alpha1.WarmCachePort }) {
			problems.add(componentField(component.Name, "ports"), "%d is where the saver of warmCache serves its metrics; choose another number", v1alpha1.WarmCachePort)
		}
	}
	if storage := warm.Source.Storage; strings.HasPrefix(storage, "/") &&
		!slices.ContainsFunc(component.VolumeMounts, func(m corev1.VolumeMount) bool { return strings.HasPrefix(storage+"/", m.MountPath+"/") }) {
		problems.add(componentField(component.Name, "warmCache.source.storage"), "no volume is mounted at %s or above it; add it to volumes and volumeMounts, or name a bucket (s3://…)", storage)
	}
}
