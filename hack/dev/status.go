package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/shopset/shopset/api/v1alpha1"
	"github.com/shopset/shopset/internal/devcluster"
)

func status(ctx context.Context, t *devcluster.Target) error {
	if t.Local {
		if err := t.Run(ctx, t.Tool("localcluster"), "status"); err != nil {
			return err
		}
	}
	if err := t.Connect(); err != nil {
		return err
	}
	fleets, shopSets := &v1alpha1.FleetList{}, &v1alpha1.ShopSetList{}
	if err := errors.Join(t.Client.List(ctx, fleets), t.Client.List(ctx, shopSets)); err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	show := func(object client.Object, summary string, conditions []metav1.Condition) {
		ready, message := "Unknown", ""
		if condition := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady); condition != nil {
			ready, message = string(condition.Status), condition.Message
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", object.GetNamespace(), object.GetName(), ready, summary, message)
	}
	if len(fleets.Items) > 0 {
		fmt.Fprintln(w, "NAMESPACE\tFLEET\tREADY\tCELLS\tMESSAGE")
	}
	for i := range fleets.Items {
		show(&fleets.Items[i], fleets.Items[i].Status.Summary, fleets.Items[i].Status.Conditions)
	}
	fmt.Fprintln(w, "NAMESPACE\tSHOPSET\tREADY\tCOMPONENTS\tMESSAGE")
	for i := range shopSets.Items {
		show(&shopSets.Items[i], shopSets.Items[i].Status.Summary, shopSets.Items[i].Status.Conditions)
	}
	return w.Flush()
}
