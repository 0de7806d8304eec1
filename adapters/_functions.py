"""Factors whose way back gives what update rules ask for: gradients changed together, or those of the tangent space."""

import torch


class Preconditioned(torch.autograd.Function):
    """left and right as they are; on the way back a rule changes their gradients together."""

    @staticmethod
    def forward(ctx, left, right, precondition, scale):
        ctx.save_for_backward(left, right)
        ctx.precondition, ctx.scale = precondition, scale
        return left.view_as(left), right.view_as(right)

    @staticmethod
    def backward(ctx, grad_left, grad_right):
        left, right = ctx.saved_tensors
        return *ctx.precondition(left, right, grad_left, grad_right, ctx.scale), None, None


class Tangent(torch.autograd.Function):
    """U S Vᵀ as [U S, U] [Vᵀ; 0]: on the way back its parts give G V, Uᵀ G V and Uᵀ G, G = dL/dW (see `SVD.record_tangent`)."""

    @staticmethod
    def forward(ctx, left, core, right):
        ctx.save_for_backward(left)
        return torch.cat([left @ core, left], 1), torch.cat([right, torch.zeros_like(right)])

    @staticmethod
    def backward(ctx, grad_tall, grad_wide):
        (left,) = ctx.saved_tensors
        rank = left.shape[1]
        along = grad_tall[:, :rank]
        return along, left.mT @ along, grad_wide[rank:]


class Core(torch.autograd.Function):
    """U S Vᵀ as [U S] [Vᵀ], whose way back gives Uᵀ G V alone."""

    @staticmethod
    def forward(ctx, left, core, right):
        ctx.save_for_backward(left)
        right = right.view_as(right)
        ctx.mark_non_differentiable(right)
        return left @ core, right

    @staticmethod
    def backward(ctx, grad_left, _):
        (left,) = ctx.saved_tensors
        return None, left.mT @ grad_left, None
