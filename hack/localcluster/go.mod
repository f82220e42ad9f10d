module github.com/shopset/shopset/hack/localcluster

go 1.26.8
