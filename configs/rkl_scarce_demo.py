# A coach pays where text is scarcest, and it need not be larger: a new student learns by reverse KL
# from its predecessor, base_scarce_demo, of the same size and on the same 1,000 sentences. In five
# seeds of five it ends with less CE than the student alone at its best number of steps
# (docs/results.md). A minute or two for both.
#     python distill.py configs/rkl_scarce_demo.py

base = "rkl_demo"

sentences = 1000
d_model = 48
d_ff = 128
weight_decay = 0.3
alpha = "linear(0: 1, 0.4: 0)"
teachers = ["base_scarce_demo"]
baseline = ""
