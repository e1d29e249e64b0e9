"""Run an original implementation, in a process of its own, to get a trace.

`process` starts the child, `worker` is what runs in it, and one module per framework knows how to bring
that framework up: `mesh_tf` for Mesh TensorFlow, `tf1_graph` for graphs of TensorFlow 1, `pytorch`, `keras`,
`flax`. Which model to build there is a port's business. See docs/references.md.
"""
