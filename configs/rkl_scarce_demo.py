# The best coach where text is scarcest: the student's own predecessor. A new student of the same
# size learns from base_scarce_demo by reverse KL, on the same 1,000 sentences. A minute or two for
# both.
#     python distill.py configs/rkl_scarce_demo.py

base = "rkl_demo"

sentences = 1000
d_model = 48
d_ff = 128
weight_decay = 0.3
alpha = "linear(0: 1, 0.4: 0)"
teachers = ["base_scarce_demo"]
baseline = ""
