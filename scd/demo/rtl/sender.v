// A serial transmitter: start bit, eight data bits with the lowest first, stop bit.
module sender #(
    parameter DIVIDER = 16
) (
    input wire clk,
    input wire rst,
    input wire start,
    input wire [7:0] data,
    output wire ready,
    output wire line
);
    localparam [15:0] LAST = DIVIDER - 1;

    reg [9:0] shift;
    reg [3:0] left;
    reg [15:0] wait_for;

    assign ready = left == 4'd0;
    assign line = ready | shift[0];

    always @(posedge clk)
        if (rst) begin
            shift <= 10'h3ff;
            left <= 4'd0;
            wait_for <= 16'd0;
        end else if (ready) begin
            if (start) begin
                shift <= {1'b1, data, 1'b0};
                left <= 4'd10;
                wait_for <= LAST;
            end
        end else if (wait_for != 16'd0) begin
            wait_for <= wait_for - 16'd1;
        end else begin
            shift <= {1'b1, shift[9:1]};
            left <= left - 4'd1;
            wait_for <= LAST;
        end
endmodule
