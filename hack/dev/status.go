package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"

	"k8s.io/apimachinery/pkg/api/meta"

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
	list := &v1alpha1.ShopSetList{}
	if err := t.Client.List(ctx, list); err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAMESPACE\tSHOPSET\tREADY\tCOMPONENTS\tMESSAGE")
	for _, ss := range list.Items {
		ready, message := "Unknown", ""
		if condition := meta.FindStatusCondition(ss.Status.Conditions, v1alpha1.ConditionReady); condition != nil {
			ready, message = string(condition.Status), condition.Message
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", ss.Namespace, ss.Name, ready, ss.Status.Summary, message)
	}
	return w.Flush()
}
